"""Stop after the first token that the draft itself finds doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hornbeam._native import CostCurve
from hornbeam.errors import ArgumentError
from hornbeam.speculation.declarations import parents_of
from hornbeam.speculation.protocols import Drafted, Nodes
from hornbeam.speculation.stop.base import LearnsNothing

__all__ = ["Confidence"]


@dataclass(frozen=True)
class Confidence:
    """Verifies a path up to its first token of a confidence below ``threshold``, *that token included*
    (transformers' ``assistant_confidence_threshold``; its default is 0.4).

    So a token's own draw never decides whether the token is verified, only those before it do, and ratio
    tests stay exact. Dropping the doubtful token itself would bias them.

    It does not look at costs; differs from transformers in that the threshold is not refitted.

    Args:
        threshold: the confidence below which a path ends, 0 to 1.

    Raises:
        ArgumentError: if ``threshold`` is outside of [0, 1].
    """

    needs_costs: ClassVar[bool] = False
    is_predictable: ClassVar[bool] = True

    threshold: float = 0.4

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ArgumentError(f"threshold is {self.threshold}, expected 0 to 1")

    def start(self, cost: CostCurve | None = None) -> ConfidenceStop:
        """Begins a run; the cost is ignored."""
        return ConfidenceStop(self)


class ConfidenceStop(LearnsNothing):
    """:class:`Confidence` at work."""

    def __init__(self, settings: Confidence) -> None:
        self.settings = settings

    def choose(self, proposals: Sequence[Drafted]) -> list[Nodes]:
        """All tokens whose ancestors are sure."""
        return [self._choose(proposal) for proposal in proposals]

    def _choose(self, proposal: Drafted) -> Nodes:
        confidences = proposal.signals.confidences
        given = parents_of(proposal)
        parents = range(-1, len(confidences) - 1) if given is None else given
        goes_on = {-1: True}
        chosen = []
        for node, (parent, confidence) in enumerate(zip(parents, confidences, strict=True)):
            goes_on[node] = goes_on[parent] and confidence >= self.settings.threshold
            if goes_on[parent]:
                chosen.append(node)
        return len(chosen) if given is None else chosen
