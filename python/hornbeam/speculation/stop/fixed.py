"""The same number of drafted tokens in every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hornbeam._native import CostCurve
from hornbeam.errors import ArgumentError
from hornbeam.speculation.protocols import Drafted
from hornbeam.speculation.stop.base import LearnsNothing

__all__ = ["Fixed"]


@dataclass(frozen=True)
class Fixed:
    """Verifies the first ``length`` tokens of every proposal, whatever they cost. Of a
    tree these are the first levels, where it comes level by level.

    Args:
        length: tokens of a proposal that are verified.

    Raises:
        ArgumentError: if ``length`` is negative.
    """

    needs_costs: ClassVar[bool] = False
    is_predictable: ClassVar[bool] = True

    length: int

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ArgumentError(f"length is {self.length}, expected at least 0")

    def start(self, cost: CostCurve | None = None) -> FixedStop:
        """Begins a run; the cost is ignored."""
        return FixedStop(self)


class FixedStop(LearnsNothing):
    """:class:`Fixed` at work."""

    def __init__(self, settings: Fixed) -> None:
        self.settings = settings

    def choose(self, proposals: Sequence[Drafted]) -> list[int]:
        """The fixed length, or the proposal's if it is shorter."""
        return [min(self.settings.length, len(proposal.signals)) for proposal in proposals]
