"""As many drafted tokens as raise the expected tokens per second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam._native import CostCurve, Gain

__all__ = ["MeasuredGain"]


@dataclass(frozen=True)
class MeasuredGain:
    """Verifies as many tokens as raise the expected tokens per second, jointly over the batch and
    beside the rows that other requests have in the same step.

    The seconds of a step are measured (:class:`hornbeam.speculation.CostCurve`), acceptance is learned
    from outcomes by match length, the source's confidence and position; the lengths maximise
    expected tokens over seconds exactly, whatever the curve's shape. Where no draft pays the
    lengths are 0, so drafting switches itself off, and on again.

    Of a tree it takes the tokens whose paths are likeliest to be accepted, closed under parents.

    The rule never decides from how verification goes, and under a ratio test not from what was drawn
    either, but from the outline of the draft (:class:`hornbeam.speculation.BatchDraft`); so it biases no
    verifier. But it reads the clock, so only *coupled* verification gives the same text on every run.

    Args:
        exploration: share of elapsed seconds for drafts that look slightly losing.
        tolerance: share of elapsed seconds that drafting may have lost in all before it pauses;
            two plain steps are allowed beyond it.
        memory: tokens after which an observed acceptance counts 1/e.

    Raises:
        ArgumentError: at :meth:`start`, if a share is outside of [0, 1) or ``memory`` below 1.
    """

    needs_costs: ClassVar[bool] = True
    is_predictable: ClassVar[bool] = False
    takes_outlines: ClassVar[bool] = True
    sees_others: ClassVar[bool] = True

    exploration: float = 0.005
    tolerance: float = 0.01
    memory: float = 64.0

    def start(self, cost: CostCurve) -> Gain:
        """Begins a run. What is learned is shared by its sequences, and by all runs of equal settings
        on this curve, that is on this model: a later run goes on where the last one ended."""
        return Gain(cost, self.exploration, self.tolerance, self.memory)
