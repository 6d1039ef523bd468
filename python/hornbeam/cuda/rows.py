"""Single rows of pages on the device: moved, copied at once, read and written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.cuda.device import lane, upload
from hornbeam.errors import ArgumentError
from hornbeam.integers import integer_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SLOT_BITS", "addresses_of", "gather_rows", "move_rows", "num_places", "plane_batches", "put_rows"]

Made = tuple[_native.Tree, int]

#: Bits of the slot in a key that :attr:`_native.KeyTable.entries` tells; above them is the page's format.
SLOT_BITS = _native.SLOT_BITS


def addresses_of(chunks: list[Tensor]) -> Tensor:
    """Where the chunks lie, for the kernels: int64, on the host."""
    return torch.tensor([chunk.data_ptr() for chunk in chunks], dtype=torch.int64)


def num_places(chunks: list[Tensor], *, by_page: bool) -> int:
    """Pages of the pool, or slabs."""
    return len(chunks) * chunks[0].shape[1] * (chunks[0].shape[0] if by_page else 1)


def move_rows(chunks: list[Tensor], moves: NDArray, *, by_page: bool, made: Made | None = None) -> None:
    """See :func:`hornbeam.ops.move_rows` and :func:`hornbeam.ops.move_page_rows`. The launch tells the tree
    of ``made`` that its copies of that number were made.

    Args:
        by_page: slots are those of pages, not of slabs.
        made: a tree and the number of its copies, if it is to be told.
    """
    driver = lane()
    limits = torch.tensor([num_places(chunks, by_page=by_page), chunks[0].shape[3]] * 2)
    table = integer_tensor(moves, "moves", torch.int32)
    if bool(((table < 0) | (table >= limits)).any()):
        raise ArgumentError(f"a move is outside of the pool, expected columns below {limits.tolist()}")
    addresses, table = upload([addresses_of(chunks), table], chunks[0].device)
    _native.cuda_move_rows(driver, addresses, table, chunks[0], by_page, made)


def _checked(chunks: list[Tensor], held: NDArray, *, plain_only: bool) -> NDArray[np.int32]:
    """The table of slots, which lie in the pool."""
    table = np.ascontiguousarray(held, dtype=np.int32)
    tokens = [chunks[0].shape[3], *(tokens for _, tokens in _native.page_formats(chunks[0]))]
    # Numbers that are no format hold nothing.
    most = np.array([*tokens[: 1 if plain_only else None], *[0] * 16], np.int32)
    numbers = np.clip(table[:, 1] >> SLOT_BITS, 0, len(most) - 1)
    outside = (table[:, :2] < 0).any(axis=1) | (table[:, 0] >= num_places(chunks, by_page=True))
    outside |= (table[:, 1] & ((1 << SLOT_BITS) - 1)) >= most[numbers]
    if outside.any():
        page, slot, _ = table[outside][0].tolist()
        kind = "plain slot" if plain_only else "slot"
        raise ArgumentError(f"an entry is page {page}, slot {slot}, expected a {kind} of the pool")
    return table


def gather_rows(chunks: list[Tensor], held: NDArray) -> Tensor:
    """Keys and values of single slots, decoded where they are in codes: float32 `[2, N, head_dim]` on the
    device. ``held`` is int32 `[N, 3]` of (page, slot, position); nothing is waited for.

    Args:
        chunks: the pool.
        held: int32 `[N, 3]` of (page, slot, position).
    """
    driver, chunk = lane(), chunks[0]
    table = _checked(chunks, held, plain_only=False)
    out = torch.empty((2, len(table), chunk.shape[-1]), dtype=torch.float32, device=chunk.device)
    parts = [addresses_of(chunks), torch.from_numpy(table)]
    if (table[:, 1] >> SLOT_BITS).any():
        parts.append(torch.tensor(_native.cuda_all_format_words(chunk), dtype=torch.int32))
    addresses, slots, *formats = upload(parts, chunk.device)
    _native.cuda_gather_rows(driver, addresses, slots, formats[0] if formats else None, out[0], out[1], chunk)
    return out


def plane_batches(counts: NDArray[np.int32], most: int) -> Iterator[tuple[slice, slice]]:
    """Runs of whole planes of ``most`` rows together, or of one plane: planes, and their rows."""
    ends, plane = np.cumsum(counts), 0
    while plane < len(counts):
        begin = int(ends[plane] - counts[plane])
        after = max(int(np.searchsorted(ends, begin + most, side="right")), plane + 1)
        yield slice(plane, after), slice(begin, int(ends[after - 1]))
        plane = after


def put_rows(chunks: list[Tensor], held: NDArray, keys: Tensor, values: Tensor) -> None:
    """See :func:`hornbeam.ops.put_rows`; rows that are on the host come over first.

    Args:
        held: int32 `[N, 3]` of (page, slot, position), plain slots.
    """
    driver, chunk = lane(), chunks[0]
    table = _checked(chunks, held, plain_only=True)
    rows = [x.to(chunk.device, torch.float32).contiguous() for x in (keys, values)]
    addresses, slots = upload([addresses_of(chunks), torch.from_numpy(table)], chunk.device)
    _native.cuda_put_rows(driver, addresses, slots, rows[0], rows[1], chunk)
