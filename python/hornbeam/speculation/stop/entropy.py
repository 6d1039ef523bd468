"""Stop where the draft's own law says that its next token is likely to be refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import ClassVar

from torch import Tensor

from hornbeam._native import CostCurve
from hornbeam.errors import ArgumentError
from hornbeam.speculation.protocols import Drafted, Nodes
from hornbeam.speculation.step_draft import filled_parents
from hornbeam.speculation.stop.gate import GateStop, levels
from hornbeam.speculation.tree_building import Node, Tree

__all__ = ["Entropy"]


@dataclass(frozen=True)
class Entropy:
    """Draws a token only where ``1 - sqrt(gamma H)``, an estimate from below of the probability that it will
    be accepted, is at least a threshold: AdaEDL (Agrawal, Jeon and Lee 2024, arXiv:2410.18351). H is the
    entropy, in nats, of the warped law that the token is drawn from; of the law at temperature 1 where the
    text is greedy.

    The threshold rises by a step while fewer than a target share of the drafted tokens are accepted, and
    falls by one while they are; both are moving averages, as in Draft & Verify (Zhang et al. 2023,
    arXiv:2309.08168). Each sequence has a threshold of its own: its text does not depend on the batch.

    The law is judged *before* the token is drawn, so ratio tests stay exact, with trees of any shape.
    Dropping a token that was drawn because the law *after* it is flat would bias them.

    We differ in that ``min_length`` levels are always drawn, without which a threshold that is too high would
    stay there. ``gamma`` is the paper's; the other constants are those of code released after both papers.

    Args:
        gamma: scales the entropy; the paper's default is 0.2.
        threshold: where every sequence begins, 0 to 1.
        acceptance: the share of accepted tokens to aim at.
        step: by which the threshold moves.
        acceptance_memory, threshold_memory: what the old value counts in either moving average.
        min_length: levels that are always drawn.

    Raises:
        ArgumentError: an argument is out of range; from ``generate``, if the draft draws no tokens.
    """

    needs_costs: ClassVar[bool] = False
    is_predictable: ClassVar[bool] = True
    is_gate: ClassVar[bool] = True

    gamma: float = 0.2
    threshold: float = 0.5
    acceptance: float = 0.9
    step: float = 0.01
    acceptance_memory: float = 0.5
    threshold_memory: float = 0.9
    min_length: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.gamma < inf:
            raise ArgumentError(f"gamma is {self.gamma}, expected a finite number above 0")
        for name in ("threshold", "acceptance", "step", "acceptance_memory", "threshold_memory"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArgumentError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        if self.min_length < 0:
            raise ArgumentError(f"min_length is {self.min_length}, expected at least 0")

    def start(self, cost: CostCurve | None = None) -> EntropyStop:
        """Begins a run; the cost is ignored."""
        return EntropyStop(self)


@dataclass
class _Sequence:
    threshold: float
    acceptance: float | None = None


class EntropyStop(GateStop):
    """:class:`Entropy` at work."""

    def __init__(self, settings: Entropy) -> None:
        super().__init__()
        self.settings = settings
        self.sequences: dict[int, _Sequence] = {}

    def limits(self, trees: Sequence[Tree], nodes: Sequence[Node], states: Tensor | None) -> list[float]:
        """The entropy at which the estimate reaches the sequence's threshold."""
        own = self.settings
        found = []
        for node in nodes:
            tree = trees[node.tree]
            threshold = self._sequence(tree.ask.index).threshold
            is_free = tree.depth(node.token) < own.min_length
            found.append(inf if is_free else (1 - threshold) ** 2 / own.gamma)
        return found

    def observe(
        self,
        proposals: Sequence[Drafted],
        chosen: Sequence[Nodes],
        accepted: Sequence[Nodes],
        next_tokens: Sequence[int] | None = None,
    ) -> None:
        """Moves the thresholds. Of a tree, levels count as tokens do."""
        for index, proposal, kept in zip(self.indices, proposals, accepted, strict=True):
            if drafted := levels(filled_parents(proposal)):
                count = kept if isinstance(kept, int) else len(kept)
                self._move(self._sequence(index), count / drafted)

    def _move(self, state: _Sequence, share: float) -> None:
        own = self.settings
        before = state.acceptance
        memory = own.acceptance_memory
        state.acceptance = share if before is None else memory * before + (1 - memory) * share
        step = own.step if state.acceptance < own.acceptance else -own.step
        memory = own.threshold_memory
        state.threshold = min(max(state.threshold + (1 - memory) * step, 0.0), 1.0)

    def _sequence(self, index: int) -> _Sequence:
        return self.sequences.setdefault(index, _Sequence(self.settings.threshold))
