"""Constant branching without replacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.speculation.acceptance import AcceptanceByRank
from hornbeam.speculation.protocols import Law
from hornbeam.speculation.shape.levels import check_widths, constant_outline, grow_levels
from hornbeam.speculation.tree_building import TreeBuilder

__all__ = ["GumbelTree"]


@dataclass(frozen=True)
class GumbelTree:
    """Every node of level ``i`` has ``branching[i]`` children, drawn without replacement by the Gumbel
    top-k trick: RSD-C (Jeon et al. 2024, "Recursive speculative decoding", section 3.2.1).

    Args:
        branching: children of a node, a number a level.

    Raises:
        ArgumentError: a width is below 1.
    """

    law: ClassVar[Law] = "without_replacement"

    branching: tuple[int, ...] = (3, 2, 1)

    def __post_init__(self) -> None:
        check_widths(self.branching)

    def grow(self, builder: TreeBuilder) -> None:
        """Level by level."""
        grow_levels(builder, builder.distinct, self.branching)

    def outline(self, record: AcceptanceByRank, max_tokens: int) -> list[int]:
        """The whole tree."""
        return constant_outline(self.branching, max_tokens)
