"""A given branching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hornbeam.errors import ArgumentError
from hornbeam.spec.growth import Growth
from hornbeam.spec.protocols import Law
from hornbeam.spec.record import Record
from hornbeam.spec.shape.levels import check_widths, constant_outline, grow_levels

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

    def grow(self, growth: Growth) -> None:
        """Level by level."""
        draw = growth.likeliest if self.siblings == "likeliest" else growth.independent
        grow_levels(growth, draw, self.branching)

    def outline(self, record: Record, max_tokens: int) -> list[int]:
        """The whole tree."""
        return constant_outline(self.branching, max_tokens)
