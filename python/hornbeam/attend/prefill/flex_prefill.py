"""FlexPrefill: each head finds its pattern and its budget on the prompt at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hornbeam.attend.prefill.base import BlockSelection, PrefillRecipe, check_shapes, expect_share
from hornbeam.attend.prefill.lines import Grid, LastRows, first_lines, smallest_set
from hornbeam.attend.prefill.pooled import block_means, block_sums, divergence, pooled_probabilities, widened
from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number

__all__ = ["FlexPrefill"]


@dataclass(frozen=True)
class FlexPrefill(PrefillRecipe):
    """FlexPrefill (Lai et al., ICLR 2025, arXiv 2502.20766), by the paper's algorithms 1 to 4.

    The last block of queries stands for all. Its true attention, pooled to blocks of keys, is compared with
    an estimate from pooled queries and keys: where the root of their Jensen-Shannon divergence is below
    `tau`, pooled queries and keys are trusted, and the head is *query-aware*: it reads the fewest pairs of
    blocks that hold `gamma` of the pooled attention of all rows. Else it is *vertical-slash*: it reads the
    fewest vertical and the fewest slash lines that hold `gamma` of the last block's attention each. The first
    block and the diagonal are always read.

    Lines are chosen by `block_keys` neighbours at a time, distances counted from the diagonal, and what is
    read of them is every block that they cross. Rows of a prompt behind a prefix count from their own first.

    The released code differs, and we follow the paper: it takes as many *blocks* of lines as 1/128 of the
    number of single lines that hold `gamma`, whatever the block size; it pools slash lines from the far end,
    so that they lie askew where the length is no multiple of the block, and reads one of the two block
    diagonals that a pooled slash crosses; it leaves the block out with which a query-aware head reaches
    `gamma`; a zero probability makes its divergence NaN, and the head vertical-slash, where `0 log 0` is 0
    here; it scales the mean of a ragged last block, and fills its lists up with block (0, 0).

    Args:
        gamma: the share of attention that is covered.
        tau: the divergence below which a head is query-aware; 0 makes every head vertical-slash.
        min_budget: tokens of vertical lines, and of slash lines, that each head reads at least.
        max_budget: tokens of each that it reads at most; None for no limit.
        block: rows of a block of queries, and keys of a block of pooled keys; the paper's is 128.
        block_keys: neighbouring lines that are chosen together, and keys that are read together; a divisor of
            `block`. None for `block` itself, as in the paper.

    Raises:
        ArgumentError: a value outside of its range.
    """

    gamma: float = 0.9
    tau: float = 0.1
    min_budget: int = 512
    max_budget: int | None = None
    block: int = 128
    block_keys: int | None = None

    def __post_init__(self) -> None:
        expect_share("gamma", self.gamma)
        expect_share("tau", self.tau)
        whole_number(self.min_budget, "min_budget")
        if self.max_budget is not None:
            whole_number(self.max_budget, "max_budget", self.min_budget)
        whole_number(self.block, "block", 1, 1024)
        if self.block_keys is not None and self.block % whole_number(self.block_keys, "block_keys", 1):
            raise ArgumentError(f"block_keys is {self.block_keys}, expected a divisor of block, {self.block}")

    @property
    def name(self) -> str:
        """What messages and pages call it."""
        return "flex_prefill"

    @property
    def dense_keys(self) -> int:
        """Prompts of up to so many positions are read densely: those that the least budget covers."""
        return max(2 * self.block, self.min_budget)

    def looked_at(self, num_rows: int, num_keys: int) -> int:
        """Products of each head that choosing computes: of the last rows with all keys.

        Args:
            num_rows: rows of queries, the last ones of all positions.
            num_keys: positions.
        """
        return min(self.block, num_rows) * num_keys

    def grid(self, num_rows: int, num_keys: int) -> Grid:
        """The blocks that a prompt is cut into.

        Args:
            num_rows: rows of queries.
            num_keys: positions.
        """
        return Grid(num_rows, num_keys, self.block, self.block_keys or self.block)

    def least(self, grid: Grid) -> Tensor:
        """As many lines as the least budget: blocks as few as any head reads.

        Args:
            grid: the blocks of the prompt.
        """
        lines = first_lines(grid.num_keys, max(self.min_budget, 1), max(self.min_budget, 1))
        return self._always(grid) | grid.crossed(*lines)

    def plan(self, layer: int, query: Tensor, key: Tensor, scale: float) -> BlockSelection:
        """What each query head reads; see :meth:`PrefillRecipe.plan`.

        Args:
            layer: plays no part.
            query: `[H, N, D]`.
            key: `[Hk, M, D]`.
            scale: factor of the scores.
        """
        check_shapes(query, key)
        heads, kv_heads = query.shape[0], key.shape[0]
        grid = self.grid(query.shape[1], key.shape[1])
        wide = Grid(grid.num_rows, grid.num_keys, self.block, self.block)
        always = self._always(grid)
        blocks = torch.zeros(heads, *always.shape, dtype=torch.bool, device="cpu")
        patterns, masses = [], []
        last = LastRows(min(self.block, grid.num_rows), grid.num_keys)
        key_means = [block_means(plane, self.block) for plane in key]
        for head in range(heads):
            kv_head = head * kv_heads // heads
            vertical, slash = last.masses(query[head], key[kv_head], scale)
            mean = query[head, -self.block :].float().mean(0, keepdim=True).double() * scale
            estimate = (mean @ key_means[kv_head].double().t()).softmax(1)[0]
            is_query_aware = math.sqrt(divergence(estimate, block_sums(vertical, self.block))) < self.tau
            lines = self._lines(grid, vertical, slash, 0.0 if is_query_aware else self.gamma)
            blocks[head] = always | grid.crossed(*lines)
            if is_query_aware:
                means = block_means(query[head], self.block), key_means[kv_head]
                pooled = pooled_probabilities(wide, *means, scale)
                chosen = smallest_set(pooled.flatten(), self.gamma).view_as(pooled)
                blocks[head] |= widened(chosen, self.block // grid.block_keys, always.shape[1])
                blocks[head] &= grid.causal()
                held = float((pooled * chosen).sum() / pooled.shape[0])
            else:
                held = max(
                    float(mass[line].sum()) for mass, line in zip((vertical, slash), lines, strict=True)
                )
            patterns.append("query_aware" if is_query_aware else "vertical_slash")
            masses.append(held)
        return BlockSelection(grid, blocks, tuple(patterns), tuple(masses))

    def _lines(self, grid: Grid, vertical: Tensor, slash: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The lines that hold a share of the last block's attention, within the budgets."""
        width = grid.block_keys
        least = -(-self.min_budget // width)
        most = None if self.max_budget is None else max(self.max_budget // width, least)

        def chosen(mass: Tensor) -> Tensor:
            groups = smallest_set(block_sums(mass, width), share, least, most)
            return groups.repeat_interleave(width)[: mass.shape[0]]

        return chosen(vertical), chosen(slash)

    def _always(self, grid: Grid) -> Tensor:
        """The first block of keys, and the diagonal."""
        return grid.crossed(*first_lines(grid.num_keys, self.block, 1))
