"""What a run learns about its drafts: acceptance by rank, and what a level costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hornbeam._native import CostCurve
from hornbeam.speculation.protocols import Outcome

__all__ = ["AcceptanceByRank"]

# Before anything was judged, the sibling of rank b is expected to be the accepted one with probability
# FIRST * NEXT**b; the expectation is worth WEIGHT judgements.
FIRST, NEXT, WEIGHT = 0.6, 0.25, 4.0
# After this many further judgements one counts 1/e.
MEMORY = 512.0


class AcceptanceByRank:
    """Acceptance by rank among siblings, and seconds of a draft's forward pass.

    ``plans`` is for shapes that work something out from these, and want to keep it.
    """

    def __init__(self, cost_curve: CostCurve | None = None) -> None:
        #: What a step of the target costs by its rows, where it is known.
        self.cost_curve = cost_curve
        self._judged: list[float] = []
        self._accepted: list[float] = []
        self._level_seconds: float | None = None
        self.num_sequences = 1
        self.plans: dict[Any, Any] = {}

    def acceptance(self, num_ranks: int) -> list[float]:
        """For each rank the probability that the sibling of this rank is the one accepted, given that their
        parent was; their sum is below 1."""
        estimates = []
        for rank in range(num_ranks):
            prior = FIRST * NEXT**rank
            judged = self._judged[rank] if rank < len(self._judged) else 0.0
            accepted = self._accepted[rank] if rank < len(self._accepted) else 0.0
            estimates.append((accepted + WEIGHT * prior) / (judged + WEIGHT))
        excess = sum(estimates) / 0.999
        return [estimate / excess for estimate in estimates] if excess > 1 else estimates

    def observe(self, outcome: Outcome) -> None:
        """Learns from the rows of a verified draft."""
        if outcome.is_prompt or outcome.parents is None or len(outcome.token_ids) == 1:
            return
        children: dict[int, list[int]] = {}
        for row, parent in enumerate(outcome.parents):
            children.setdefault(parent, []).append(row)
        kept = set(outcome.kept)
        for row in outcome.kept:
            self._judge([child in kept for child in children.get(row, ())])

    def _judge(self, siblings: Sequence[bool]) -> None:
        while len(self._judged) < len(siblings):
            self._judged.append(0.0)
            self._accepted.append(0.0)
        for rank, accepted in enumerate(siblings):
            self._judged[rank] = self._judged[rank] * (1 - 1 / MEMORY) + 1
            self._accepted[rank] = self._accepted[rank] * (1 - 1 / MEMORY) + accepted

    @property
    def level_seconds(self) -> float | None:
        """Seconds that a draft's forward pass took of late; None before the first."""
        return self._level_seconds

    def observe_level(self, seconds: float) -> None:
        """Records a draft's forward pass."""
        before = self._level_seconds
        self._level_seconds = seconds if before is None else 0.8 * before + 0.2 * min(seconds, 4 * before)
