"""A handle to the end of a run of tokens in a prefix tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.errors import StateError

if TYPE_CHECKING:
    from hornbeam.cache.tree import PrefixTree

__all__ = ["Branch", "int64"]


class Branch:
    """A handle to the end of a run of tokens. Made by :meth:`PrefixTree.branch`, ``match`` and ``fork``.

    A branch that is collected without :meth:`release` is released with ``keep=True``, and its pins are
    undone. It cannot be copied: :meth:`fork` gives a second branch.
    """

    __slots__ = ("__weakref__", "_handle", "_id", "_native", "_pins", "tree")

    def __init__(self, tree: PrefixTree, native: _native.Tree, handle: _native.BranchHandle) -> None:
        self.tree = tree
        self._native = native
        self._handle = handle
        self._id = handle.id
        self._pins: list[_native.Pin] = []

    @property
    def length(self) -> int:
        """Tokens so far, which is the logical position of the next one."""
        return self._native.length(self._id)

    def __len__(self) -> int:
        return self._native.length(self._id)

    @property
    def token_ids(self) -> Tensor:
        """The tokens, int64 `[length]` on the CPU; a copy."""
        return int64(self._native.token_ids(self._id))

    @property
    def positions(self) -> Tensor:
        """Logical positions of the tokens whose keys some plane still shows, int64 `[n]`, ascending."""
        nodes = self._native.path_nodes(self._id)
        if all(digest == 0 for *_, digest in nodes):
            return torch.arange(self.length, device="cpu")
        planes = [self._native.keys(self._id, plane)[:, 3] for plane in range(self.tree.num_planes)]
        return torch.from_numpy(np.unique(np.concatenate(planes)).astype(np.int64))

    def fork(self) -> Branch:
        """A second branch with the same tokens; takes the same time for any length."""
        return Branch(self.tree, self._native, self._native.fork(self._id))

    def release(self, keep: bool = True) -> None:
        """Close the branch. Releasing twice does nothing.

        With ``keep`` the tokens stay cached for :meth:`PrefixTree.match` until there is pressure, unless some
        of the keys are inexact or of before :meth:`PrefixTree.invalidate`: those are never matched;
        without, what no other branch, pin or kept prefix needs is freed at once. Raises StateError
        while the branch has a request in the open step.
        """
        if not self.is_closed:
            self._native.release(self._id, keep)

    def drop(self, keep: bool = True) -> None:
        """As :meth:`release`, but while the branch has a request in the open step it is closed after that:
        for clean-up, which an error of its own would hide the reason for.

        Args:
            keep: as there.
        """
        self._native.drop_branch(self._id, keep)

    def pin(self) -> None:
        """Hold what the branch shows now, whatever the pressure, until :meth:`unpin`, also after release.

        The pin ends with this handle at the latest.
        """
        self._pins.append(self._native.pin(self._id))

    def unpin(self) -> None:
        """Undo the last :meth:`pin` of this handle; raises StateError if there is none."""
        if not self._pins:
            raise StateError("branch is not pinned")
        self._pins.pop().undo()

    @property
    def is_closed(self) -> bool:
        """Whether the branch was released."""
        return not self._native.is_open(self._id)

    def bytes_by_head(self) -> Tensor:
        """Bytes of the pages that the branch shows something of, int64 `[physical layers, kv heads]`."""
        pages = torch.tensor(self._native.pages_by_plane(self._id), dtype=torch.int64, device="cpu")
        page_bytes = self.tree.slab_bytes // self.tree.num_planes
        return pages.view(self.tree.num_physical_layers, self.tree.num_kv_heads) * page_bytes

    def nodes(self) -> list[tuple[int, int, int, int, bool]]:
        """The nodes of its path, from the root: (number, position of the first token, tokens, the most keys
        that a plane shows of them, whether what they hold is inexact)."""
        return [(*node[:4], node[4] != 0) for node in self._native.path_nodes(self._id)]

    def stats(self) -> dict[str, int]:
        """Counts: ``tokens``, ``keys`` (the most that a plane shows), ``nodes``, ``inexact_nodes``; and
        ``bytes`` of pages, of which :meth:`bytes_by_head` tells the parts."""
        nodes = self._native.path_nodes(self._id)
        return {
            "tokens": sum(n[2] for n in nodes),
            "keys": sum(n[3] for n in nodes),
            "nodes": len(nodes),
            "inexact_nodes": sum(n[4] != 0 for n in nodes),
            "bytes": int(self.bytes_by_head().sum()),
        }

    def __copy__(self) -> NoReturn:
        raise TypeError("a Branch cannot be copied or pickled; fork() gives a second one with its tokens")

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__copy__()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        self.__copy__()

    def __repr__(self) -> str:
        return "Branch(closed)" if self.is_closed else f"Branch(length={self.length})"


def int64(data: bytearray) -> Tensor:
    """What the tree hands out as bytes: int64 `[n]` over the same memory."""
    return (
        torch.frombuffer(data, dtype=torch.int64) if data else torch.empty(0, dtype=torch.int64, device="cpu")
    )
