"""A given branching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hornbeam.errors import ArgumentError
from hornbeam.speculation.acceptance import AcceptanceByRank
from hornbeam.speculation.protocols import Law
from hornbeam.speculation.shape.levels import check_widths, constant_outline, grow_levels
from hornbeam.speculation.tree_building import TreeBuilder

__all__ = ["Fixed"]


@dataclass(frozen=True)
class Fixed:
    """Every node of level ``i`` has ``branching[i]`` children.

    Args:
        branching: children of a node, a number a level.
        siblings: ``"likeliest"`` are the likeliest tokens, a deterministic draft (Medusa's trees);
            ``"independent"`` are drawn with replacement (SpecInfer, Miao et al. 2024), to be verified
            with rule ``with_replacement`` or ``without_replacement``. For distinct draws see
            :class:`GumbelTree`.

    Raises:
        ArgumentError: a width is below 1, or ``siblings`` is neither.
    """

    branching: tuple[int, ...] = (3, 2, 1)
    siblings: Literal["likeliest", "independent"] = "likeliest"

    def __post_init__(self) -> None:
        check_widths(self.branching)
        if self.siblings not in ("likeliest", "independent"):
            raise ArgumentError(f"siblings is {self.siblings!r}, expected 'likeliest' or 'independent'")

    @property
    def law(self) -> Law:
        """As ``siblings`` says."""
        return "deterministic" if self.siblings == "likeliest" else "with_replacement"

    def grow(self, builder: TreeBuilder) -> None:
        """Level by level."""
        draw = builder.likeliest if self.siblings == "likeliest" else builder.independent
        grow_levels(builder, draw, self.branching)

    def outline(self, record: AcceptanceByRank, max_tokens: int) -> list[int]:
        """The whole tree."""
        return constant_outline(self.branching, max_tokens)
