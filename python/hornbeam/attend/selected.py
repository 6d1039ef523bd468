"""Which keys the rows of some queries read: the answer of :func:`hornbeam.attend.plan`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Selected"]


@dataclass(frozen=True, eq=False)
class Selected:
    """The keys that H query heads read in N rows, out of M keys; the rows are the last N of M positions.

    Keys are chosen in units, pages or blocks, by rows that choose together: single rows, or blocks of rows.
    A row reads those keys of its units that do not lie after it.

    Args:
        units: bool `[H, R, U]`: whether a head's rows of a group read a unit.
        num_rows: N.
        num_keys: M, at least N.
        row_tokens: rows that choose together, 1 where each chooses for itself. The first group begins with
            the first row; the last may be short.
        key_tokens: keys of a unit: 16 for a page. The first unit begins with the first key.
        patterns: what each head's choice is called, H names.
    """

    units: Tensor
    num_rows: int
    num_keys: int
    row_tokens: int
    key_tokens: int
    patterns: tuple[str, ...]

    @cached_property
    def positions(self) -> Tensor:
        """Of the rows, int64 `[N]`."""
        return torch.arange(self.num_keys - self.num_rows, self.num_keys, device="cpu")

    @cached_property
    def visible(self) -> Tensor:
        """The keys of each unit that do not lie after a row, int64 `[N, U]`."""
        begin = torch.arange(self.units.shape[2], device="cpu") * self.key_tokens
        return (self.positions[:, None] + 1 - begin).clamp(0, self.key_tokens)

    @cached_property
    def counts(self) -> Tensor:
        """The keys that each row reads, int64 `[H, N]`."""
        found = [(self.visible * self._of_rows(head)).sum(dim=1) for head in range(len(self.units))]
        return torch.stack(found)

    @property
    def shares(self) -> Tensor:
        """Keys read over keys there are, over all rows of a head, float64 `[H]`."""
        return self.counts.sum(dim=1).double() / int((self.positions + 1).sum())

    def mask(self, head: int, rows: slice = slice(None)) -> Tensor:
        """Whether rows read keys, bool `[rows, M]`.

        Args:
            head: a query head.
            rows: which of the N rows.
        """
        chosen = self._of_rows(head)[rows].repeat_interleave(self.key_tokens, dim=1)[:, : self.num_keys]
        is_before = torch.arange(self.num_keys, device="cpu") <= self.positions[rows, None]
        return chosen & is_before

    def cells(self, most: int) -> tuple[Tensor, int]:
        """A map of each head, for drawing: how much of it is read, coarse enough for ``most`` cells a side.

        Args:
            most: cells of a side, at least 1.

        Returns:
            float32 `[H, C, C]` and the tokens of a cell's side: of the pairs of row and key in a cell of
            which the key does not lie after the row, the share that is read. 0 where there is no such pair.
            The first cell begins with the first key, so that rows lie below keys of the same positions.
        """
        side = self.key_tokens * -(-self.num_keys // (self.key_tokens * most))
        count = -(-self.num_keys // side)
        row_cell, key_cell = (
            self.positions // side,
            torch.arange(self.units.shape[2]) * self.key_tokens // side,
        )

        def summed(pairs: Tensor) -> Tensor:
            by_key = torch.zeros(len(pairs), count, device="cpu").index_add_(1, key_cell, pairs)
            return torch.zeros(count, count, device="cpu").index_add_(0, row_cell, by_key)

        pairs = self.visible.float()
        all_pairs = summed(pairs).clamp_min(1)
        return torch.stack(
            [summed(pairs * self._of_rows(h)) / all_pairs for h in range(len(self.units))]
        ), side

    def row_slices(self, most: int) -> Iterator[slice]:
        """Cuts the rows into runs of at most ``most``, to bound what a walk over them holds."""
        for begin in range(0, self.num_rows, most):
            yield slice(begin, min(begin + most, self.num_rows))

    def _of_rows(self, head: int) -> Tensor:
        """Units of each row of a head, bool `[N, U]`."""
        group = torch.arange(self.num_rows, device="cpu") // self.row_tokens
        return self.units[head, group]
