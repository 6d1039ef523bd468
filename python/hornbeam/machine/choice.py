"""Which of several kernels is the faster one, decided from pairs of timings.

One timing on a machine in use may be wrong by a factor of two, and a run of timings drifts with the clock. So
a kernel is compared with the chosen one in *pairs*, each timed one right after the other, and the ratio of a
pair is all that counts. Another kernel is chosen only when it was faster by more than :data:`MARGIN` in at
least :data:`WINS` of the last :data:`PAIRS` pairs. If it is not faster by that much, chance alone gives this
with a probability of 2 % at most (a sign test, which assumes nothing about the noise), and what one pair says
never matters. The wider the pairs spread, the greater the advantage has to be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["MARGIN", "PAIRS", "WINS", "Choice"]

#: Pairs that a decision looks at: the latest ones.
PAIRS = 9
#: Of these, how many another kernel has to win.
WINS = 8
#: By how much it has to win each: 1.03 times as fast.
MARGIN = 0.03


@dataclass
class Choice:
    """The kernel that runs an operation at some row counts, and how others fared beside it.

    Attributes:
        kernel: the chosen one.
        ratios: by the name of another, of its last pairs: how many times as long the chosen one took.
        seconds: what the chosen one takes, as it was timed last; None before that.
    """

    kernel: str
    ratios: dict[str, deque[float]] = field(default_factory=dict)
    seconds: float | None = None

    def record(self, seconds: Mapping[str, float]) -> bool:
        """Records a pair: the seconds of two kernels by name, one of which may be the chosen one.

        Returns:
            Whether another kernel is chosen now. What was known of the others was in relation to the old one,
            and is forgotten.
        """
        others = [name for name in seconds if name != self.kernel]
        if self.kernel not in seconds or len(others) != 1:
            return False
        [other] = others
        self.seconds = seconds[self.kernel]
        ratios = self.ratios.setdefault(other, deque(maxlen=PAIRS))
        ratios.append(seconds[self.kernel] / seconds[other])
        if len(ratios) < PAIRS or sum(ratio > 1.0 + MARGIN for ratio in ratios) < WINS:
            return False
        self.kernel, self.ratios, self.seconds = other, {}, seconds[other]
        return True

    def pairs(self, other: str) -> int:
        """How many of the last pairs with another kernel are known."""
        return len(self.ratios.get(other, ()))

    def is_in_doubt(self, other: str) -> bool:
        """Whether another kernel has won the last pair, so that it should soon be known whether it wins
        more."""
        ratios = self.ratios.get(other)
        return ratios is not None and len(ratios) > 0 and ratios[-1] > 1.0 + MARGIN

    def ratio(self, other: str) -> float | None:
        """The median of what is known of another kernel: how many times as long the chosen one takes."""
        ratios = sorted(self.ratios.get(other, ()))
        return ratios[len(ratios) // 2] if ratios else None
