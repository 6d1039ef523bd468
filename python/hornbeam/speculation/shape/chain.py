"""One draw after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.errors import ArgumentError
from hornbeam.speculation.acceptance import AcceptanceByRank
from hornbeam.speculation.protocols import Law
from hornbeam.speculation.shape.levels import constant_outline, grow_levels
from hornbeam.speculation.tree_building import TreeBuilder

__all__ = ["Chain"]


@dataclass(frozen=True)
class Chain:
    """A chain of ``length`` tokens (Leviathan et al. 2023, Chen et al. 2023).

    Args:
        length: tokens of the chain.

    Raises:
        ArgumentError: if ``length`` is below 1.
    """

    law: ClassVar[Law] = "chain"

    length: int = 5

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ArgumentError(f"length is {self.length}, expected at least 1")

    def grow(self, builder: TreeBuilder) -> None:
        """A token a level."""
        grow_levels(builder, builder.distinct, (1,) * self.length)

    def outline(self, record: AcceptanceByRank, max_tokens: int) -> list[int]:
        """The chain."""
        return constant_outline((1,) * self.length, max_tokens)
