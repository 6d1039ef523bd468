"""The resident keys of a branch: built once, handed on to whoever scores, selects or copies them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native, cuda, ops
from hornbeam.cuda.rows import SLOT_BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KeyTable"]


class KeyTable:
    """Where the keys lie that each plane of a branch shows, plane after plane, in order of position.

    A table says what the branch showed when it was made, by :meth:`hornbeam.cache.tree.PrefixTree.key_table`
    or ``condense``. Arrays are read, never written.
    """

    def __init__(self, native: _native.KeyTable) -> None:
        #: What native operations take.
        self.native = native

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def counts(self) -> NDArray[np.int32]:
        """Keys of each plane, int32 `[num_planes]`."""
        return self.native.counts

    @cached_property
    def entries(self) -> NDArray[np.int32]:
        """int32 `[num_keys, 3]` of (page, slot, position). Above the twelve bits of the slot lies the number
        of the page's format."""
        return self.native.entries

    @property
    def positions(self) -> NDArray[np.int32]:
        """Logical positions, int32 `[num_keys]`."""
        return self.entries[:, 2]

    @cached_property
    def formats(self) -> NDArray[np.int32]:
        """The number of each key's format, int32 `[num_keys]`; 0 where its slot is plain."""
        return self.entries[:, 1] >> SLOT_BITS

    @cached_property
    def offsets(self) -> list[int]:
        """Where planes begin, and one past the last."""
        return [0, *np.cumsum(self.counts).tolist()]

    @cached_property
    def plane_of(self) -> NDArray[np.int64]:
        """The plane of each key, int64 `[num_keys]`."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def is_even(self) -> bool:
        """Whether all planes show keys at the same positions."""
        return self.native.is_even

    @property
    def num_pages(self) -> int:
        """Pages that hold a key, over all planes."""
        return sum(self.native.pages_by_plane())

    def gather(self, chunks: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values of all of them, float32 `[num_keys, head_dim]` on the CPU; codes are decoded."""
        if cuda.is_on_device(chunks[0]):
            keys, values = cuda.gather_rows(chunks, self.entries).cpu()
            return keys, values
        shape = (len(self), chunks[0].shape[-1])
        keys, values = (torch.empty(shape, dtype=torch.float32, device="cpu") for _ in range(2))
        _native.gather_rows(chunks, self.native, keys, values)
        return keys, values

    def layer_rows(self, chunks: list[Tensor], layer: int, num_kv_heads: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one physical layer whose planes show equally many, float32
        `[num_kv_heads, n, head_dim]` on the CPU; codes are decoded."""
        planes = slice(layer * num_kv_heads, (layer + 1) * num_kv_heads)
        own = slice(self.offsets[planes.start], self.offsets[planes.stop])
        found = ops.gather_rows(chunks, self.counts[planes], self.entries[own])
        keys, values = (rows.view(num_kv_heads, -1, rows.shape[-1]) for rows in found)
        return keys, values

    def split(self, values: NDArray) -> list[NDArray]:
        """What lies plane after plane, a part for each plane."""
        return np.split(values, self.offsets[1:-1])
