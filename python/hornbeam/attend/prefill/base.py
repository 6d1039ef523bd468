"""What a sparse prefill gives: which blocks are read, and the attention over them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from hornbeam import ops
from hornbeam.attend.prefill.cost import STANDARD, CostModel
from hornbeam.attend.prefill.lines import Grid
from hornbeam.errors import ArgumentError, ShapeError

__all__ = ["BlockSelection", "PrefillRecipe"]


@dataclass(frozen=True, eq=False)
class BlockSelection:
    """Which blocks of keys each block of a prompt's rows reads, for each query head of a layer.

    Args:
        grid: the blocks of rows and of keys.
        blocks: bool `[H, row blocks, key blocks]`, on the CPU.
        patterns: the name of what chose them, of each query head.
        estimated_mass: the share of attention that the estimate expects them to cover at least, of each query
            head; None where nothing was estimated.
    """

    grid: Grid
    blocks: Tensor
    patterns: tuple[str, ...]
    estimated_mass: tuple[float | None, ...]

    def pairs(self, head: int) -> list[tuple[int, int]]:
        """The (block of rows, block of keys) that a head reads, in this order.

        Args:
            head: query head.
        """
        return [(row, key) for row, key in self.blocks[head].nonzero().tolist()]

    @cached_property
    def pairs_read(self) -> tuple[int, ...]:
        """Pairs of a row and a key that it reads, of each query head."""
        pairs = self.grid.pairs()
        return tuple(int(pairs[blocks].sum()) for blocks in self.blocks)

    @property
    def share_read(self) -> float:
        """Pairs of a row and a key that are read, as a share of those that dense attention reads."""
        every = int(self.grid.pairs().sum()) * len(self.pairs_read)
        return sum(self.pairs_read) / every if every else 1.0

    def attention(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """The exact attention over the blocks that are read, `[N, H, D]` of the type of `query`.

        Args:
            query: `[H, N, D]`, rotated, of the last N positions; on the CPU.
            key: `[Hk, M, D]`, rotated.
            value: `[Hk, M, D]`.
            scale: factor of the scores.
        """
        return self._attention(query, key, value, scale, None)

    def covered_mass(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """The share of attention that the blocks really cover, the mean over rows, float64 `[H]`. It costs a
        dense attention.

        Args:
            query: `[H, N, D]`, as in :meth:`attention`.
            key: `[Hk, M, D]`.
            scale: factor of the scores.
        """
        logs = []
        whole = BlockSelection(self.grid, torch.ones_like(self.blocks), self.patterns, self.estimated_mass)
        for selection in (self, whole):
            lse = torch.empty(query.shape[1], query.shape[0], device="cpu")
            selection._attention(query, key, key, scale, lse)
            logs.append(lse.double())
        return (logs[0] - logs[1]).exp().mean(0)

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, lse: Tensor | None
    ) -> Tensor:
        return ops.block_sparse_attention(
            query,
            key,
            value,
            self.blocks,
            scale=scale,
            block_rows=self.grid.block_rows,
            block_keys=self.grid.block_keys,
            lse=lse,
        )


@dataclass(frozen=True)
class PrefillRecipe(ABC):
    """Base of all recipes of sparse prefill: a subclass says in :meth:`plan` what is read.

    Args:
        cost: where a layer is better read densely, so that a prompt is not slower; by constants, never by a
            clock. None always reads sparsely, above the length that the method itself reads densely.
    """

    cost: CostModel | None = field(default=STANDARD, repr=False, kw_only=True)

    #: The name that files and pages give it.
    @property
    @abstractmethod
    def name(self) -> str:
        """What messages and pages call it."""

    @property
    @abstractmethod
    def dense_keys(self) -> int:
        """Prompts of up to so many positions are read densely."""

    @abstractmethod
    def looked_at(self, num_rows: int, num_keys: int) -> int:
        """Products of a row and a key that choosing computes, of each head, for the cost.

        Args:
            num_rows: rows of queries, the last ones of all positions.
            num_keys: positions.
        """

    @abstractmethod
    def grid(self, num_rows: int, num_keys: int) -> Grid:
        """The blocks that a prompt is cut into.

        Args:
            num_rows: rows of queries.
            num_keys: positions.
        """

    @abstractmethod
    def least(self, grid: Grid) -> Tensor:
        """Blocks as few as any head reads, bool `[row blocks, key blocks]`: which they are may differ.

        Args:
            grid: the blocks of the prompt.
        """

    @abstractmethod
    def plan(self, layer: int, query: Tensor, key: Tensor, scale: float) -> BlockSelection:
        """What each query head of a layer reads.

        Args:
            layer: which layer.
            query: `[H, N, D]`, rotated, of the last N of the M positions; any float type, on the CPU.
            key: `[Hk, M, D]`, rotated; query head `h` reads kv head `h // (H / Hk)`.
            scale: factor of the scores.

        Raises:
            ShapeError: shapes do not fit each other.
        """

    def attention(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor | None:
        """The attention of a layer, `[N, H, D]`; None where the caller shall read densely.

        Args:
            layer: which layer.
            query: `[H, N, D]`, as in :meth:`plan`.
            key: `[Hk, M, D]`.
            value: `[Hk, M, D]`.
            scale: factor of the scores.

        Raises:
            ShapeError: shapes do not fit each other.
        """
        check_shapes(query, key)
        if query.shape[1] == 0 or key.shape[1] <= self.dense_keys:
            return None
        if self.cost is not None:
            num_rows, num_keys = query.shape[1], key.shape[1]
            grid = self.grid(num_rows, num_keys)
            least = int(grid.pairs()[self.least(grid)].sum())
            if not self.cost.is_worth_a_look(num_rows, num_keys, self.looked_at(num_rows, num_keys), least):
                return None
        selection = self.plan(layer, query, key, scale)
        if self.cost is not None and not self.cost.wins(num_rows, num_keys, selection.share_read):
            return None
        return selection.attention(query, key, value, scale)


def check_shapes(query: Tensor, key: Tensor) -> None:
    """Errors unless queries `[H, N, D]` and keys `[Hk, M, D]` fit each other.

    Args:
        query: queries.
        key: keys.

    Raises:
        ShapeError: they do not.
    """
    for name, tensor in (("query", query), ("key", key)):
        if tensor.dim() != 3:
            raise ShapeError(
                f"{name}.shape is {list(tensor.shape)}, expected three sizes, [heads, tokens, D]"
            )
    if key.shape[0] == 0 or query.shape[0] % key.shape[0]:
        raise ShapeError(f"there are {query.shape[0]} query heads, expected a multiple of {key.shape[0]}")
    if query.shape[2] != key.shape[2]:
        raise ShapeError(f"key.shape is {list(key.shape)}, expected a head size of {query.shape[2]}")
    if query.shape[1] > key.shape[1]:
        raise ShapeError(f"there are {query.shape[1]} queries, expected at most one a key, {key.shape[1]}")


def expect_share(name: str, value: float) -> None:
    """Errors unless a share lies in 0 to 1.

    Args:
        name: the argument's name.
        value: what was given.

    Raises:
        ArgumentError: it does not.
    """
    if not 0 <= value <= 1:
        raise ArgumentError(f"{name} is {value!r}, expected 0 to 1")
