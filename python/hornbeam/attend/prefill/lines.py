"""Vertical and slash lines of attention, and the blocks that they cross.

A vertical line is a key that rows attend to wherever they stand; a slash line is a distance from a row to its
key. Rows of a prompt that is behind a prefix have the positions behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError, ShapeError

__all__ = ["Grid", "LastRows", "first_lines", "greatest", "smallest_set"]


@dataclass(frozen=True)
class Grid:
    """The blocks of a prompt's rows and keys.

    Args:
        num_rows: rows of queries, the last ones of all positions.
        num_keys: positions.
        block_rows: rows of a block.
        block_keys: keys of a block.
    """

    num_rows: int
    num_keys: int
    block_rows: int
    block_keys: int

    def __post_init__(self) -> None:
        if self.num_rows > self.num_keys:
            raise ShapeError(
                f"there are {self.num_rows} queries, expected at most one a key, {self.num_keys}"
            )
        for name in ("block_rows", "block_keys"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} is {getattr(self, name)}, expected at least 1")

    @property
    def first_position(self) -> int:
        """Position of the first row."""
        return self.num_keys - self.num_rows

    def row_bounds(self) -> tuple[Tensor, Tensor]:
        """Position of the first row of each block, and one past that of its last, int64."""
        begin = torch.arange(0, self.num_rows, self.block_rows, device="cpu")
        end = (begin + self.block_rows).clamp(max=self.num_rows)
        return begin + self.first_position, end + self.first_position

    def key_bounds(self) -> tuple[Tensor, Tensor]:
        """The first key of each block, and one past its last, int64."""
        begin = torch.arange(0, self.num_keys, self.block_keys, device="cpu")
        return begin, (begin + self.block_keys).clamp(max=self.num_keys)

    def causal(self) -> Tensor:
        """Which blocks of keys some row of a block may see, bool `[row blocks, key blocks]`."""
        return self.key_bounds()[0][None] < self.row_bounds()[1][:, None]

    def pairs(self) -> Tensor:
        """Pairs of a row and a key that it may see, of each pair of blocks, int64."""
        (row_begin, row_end), (key_begin, key_end) = self.row_bounds(), self.key_bounds()

        def below(rows: Tensor, keys: Tensor) -> Tensor:
            """Pairs of all positions before `rows` and all keys before `keys`."""
            rows, keys = rows[:, None], keys[None]
            whole = torch.minimum(rows, keys)
            return whole * (whole + 1) // 2 + (rows - whole) * keys

        return (
            below(row_end, key_end)
            - below(row_begin, key_end)
            - below(row_end, key_begin)
            + below(row_begin, key_begin)
        )

    def crossed(self, verticals: Tensor, slashes: Tensor) -> Tensor:
        """The blocks that some line crosses, bool `[row blocks, key blocks]`; none that no row may see.

        Args:
            verticals: bool `[num_keys]`, which keys are lines.
            slashes: bool `[num_keys]`, which distances are.
        """
        (row_begin, row_end), (key_begin, key_end) = self.row_bounds(), self.key_bounds()
        before = torch.zeros(self.num_keys + 1, dtype=torch.int64, device="cpu")
        torch.cumsum(verticals, 0, out=before[1:])
        vertical = before[key_end] > before[key_begin]
        torch.cumsum(slashes, 0, out=before[1:])
        # Of a row and a key in the two blocks the distance is at least and less than:
        nearest = (row_begin[:, None] - key_end[None] + 1).clamp(min=0)
        farthest = (row_end[:, None] - key_begin[None]).clamp(min=0)
        slash = before[farthest] > before[torch.minimum(nearest, farthest)]
        return (vertical[None] | slash) & self.causal()


class LastRows:
    """Attention probabilities of the last rows of one head after another, in memory that they share.

    Args:
        num_rows: how many rows.
        num_keys: positions.
    """

    def __init__(self, num_rows: int, num_keys: int) -> None:
        self.scores = torch.empty(num_rows, num_keys, device="cpu")
        self.probabilities = torch.empty(num_rows, num_keys, device="cpu")
        #: Each row begins one further right than the row above it ends: a column of `turned` is one distance.
        self.beside = torch.zeros(num_rows, num_keys + num_rows, device="cpu")
        strides = (num_keys + num_rows + 1, 1)
        self.turned = self.beside.as_strided((num_rows, num_keys), strides, 1)
        self.after = torch.ones(num_rows, num_rows, dtype=torch.bool, device="cpu").triu_(1)

    def masses(self, query: Tensor, key: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """The mass of every vertical and of every slash line, float64 `[M]` each: shares of the rows' whole.

        Args:
            query: `[N, D]`, of the last N positions, at least as many as the rows.
            key: `[M, D]`.
            scale: factor of the scores.
        """
        rows, keys = self.scores.shape
        torch.mm(query[-rows:].float() * scale, key.float().t(), out=self.scores)
        self.scores[:, keys - rows :].masked_fill_(self.after, -torch.inf)
        torch.softmax(self.scores, -1, out=self.probabilities)
        self.beside[:, rows:] = self.probabilities
        sums = self.probabilities.sum(0), self.turned.sum(0).flip(0)
        return sums[0].double() / rows, sums[1].double() / rows


def first_lines(num_keys: int, verticals: int, slashes: int) -> tuple[Tensor, Tensor]:
    """The first vertical and the nearest slash lines, bool `[num_keys]` each.

    Args:
        num_keys: keys, and distances.
        verticals: keys from the first on.
        slashes: distances from 0 on.
    """
    place = torch.arange(num_keys, device="cpu")
    return place < verticals, place < slashes


def greatest(numbers: Tensor, count: int) -> Tensor:
    """The `count` greatest numbers, or all, bool `[n]`; of equals the first.

    Args:
        numbers: `[n]`.
        count: how many.
    """
    chosen = torch.zeros(numbers.shape, dtype=torch.bool, device="cpu")
    chosen[torch.sort(numbers, descending=True, stable=True).indices[:count]] = True
    return chosen


def smallest_set(mass: Tensor, share: float, least: int = 0, most: int | None = None) -> Tensor:
    """The fewest elements that together have at least `share` of the whole, the one that crosses it included;
    of equals the first, bool `[n]`. A share of 1 takes all that have any mass.

    Args:
        mass: float64 `[n]`, not negative.
        share: 0 to 1.
        least: elements that are taken anyway.
        most: elements that are taken at most, if there is a limit.
    """
    ordered = torch.sort(mass, descending=True).values
    sums = ordered.cumsum(0)
    if share == 1:  # rounded sums may reach the whole before its last parts
        count = int((mass > 0).sum())
    else:
        count = int((sums < share * sums[-1]).sum()) + 1 if share > 0 else 0
    count = max(count, least)
    return greatest(mass, count if most is None else min(count, most))
