"""A prompt that is read part by part: each part chooses by rows of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hornbeam.attend.prefill.base import BlockSelection, PrefillRecipe, check_shapes
from hornbeam.attend.prefill.cost import CostModel
from hornbeam.attend.prefill.lines import Grid
from hornbeam.integers import whole_number

__all__ = ["InParts"]

MIXED = "mixed"


@dataclass(frozen=True)
class InParts(PrefillRecipe):
    """Another recipe, asked for every part of a prompt as if the prompt ended there.

    Recipes choose by the last rows of a prompt, which stand for all. In a long prompt they do not: what a row
    in the midst reads most, the last rows may have left behind. Here the last rows of each part choose for
    that part alone. Looking costs as many products a part, of the keys up to its end. Where a layer is better
    read densely is decided as `recipe` says, by what all parts cost.

    This is ours: the papers choose once for a prompt.

    Args:
        recipe: what chooses.
        parts: that a prompt is cut into at most, of equally many rows; the last one may be shorter.
        min_rows: rows of a part at least. They are rounded up to whole blocks of `recipe`.

    Raises:
        ArgumentError: a number below 1.
    """

    recipe: PrefillRecipe
    parts: int = 8
    min_rows: int = 1024
    cost: CostModel | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", self.recipe.cost)
        whole_number(self.parts, "parts", 1)
        whole_number(self.min_rows, "min_rows", 1)

    @property
    def name(self) -> str:
        """What messages and pages call it."""
        return f"{self.recipe.name} in {self.parts} parts"

    @property
    def dense_keys(self) -> int:
        """That of the recipe."""
        return self.recipe.dense_keys

    def looked_at(self, num_rows: int, num_keys: int) -> int:
        """Products of each head that choosing computes, of all parts."""
        return sum(
            self.recipe.looked_at(end - begin, keys) for begin, end, keys in self._parts(num_rows, num_keys)
        )

    def grid(self, num_rows: int, num_keys: int) -> Grid:
        """That of the recipe."""
        return self.recipe.grid(num_rows, num_keys)

    def least(self, grid: Grid) -> Tensor:
        """That of the recipe."""
        return self.recipe.least(grid)

    def plan(self, layer: int, query: Tensor, key: Tensor, scale: float) -> BlockSelection:
        """What each query head reads; see :meth:`PrefillRecipe.plan`."""
        check_shapes(query, key)
        grid = self.grid(query.shape[1], key.shape[1])
        blocks = torch.zeros(query.shape[0], *grid.causal().shape, dtype=torch.bool, device="cpu")
        patterns, masses = [], []
        for begin, end, keys in self._parts(grid.num_rows, grid.num_keys):
            part = self.recipe.plan(layer, query[:, begin:end], key[:, :keys], scale)
            row = begin // grid.block_rows
            own = part.blocks
            blocks[:, row : row + own.shape[1], : own.shape[2]] = own
            patterns.append(part.patterns)
            masses.append(part.estimated_mass)
        return BlockSelection(
            grid,
            blocks,
            tuple(names[0] if len(set(names)) == 1 else MIXED for names in zip(*patterns, strict=True)),
            tuple(None if None in own else min(own) for own in zip(*masses, strict=True)),
        )

    def _parts(self, num_rows: int, num_keys: int) -> list[tuple[int, int, int]]:
        """Of each part its first row, one past its last, and the keys up to there."""
        block = self.recipe.grid(1, 1).block_rows
        rows = -(-max(-(-num_rows // self.parts), self.min_rows) // block) * block
        before = num_keys - num_rows
        ends = (min(begin + rows, num_rows) for begin in range(0, num_rows, rows))
        return [(place * rows, end, before + end) for place, end in enumerate(ends)]
