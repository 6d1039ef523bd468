"""Quest: the greatest score that a key of the page can have, or a part of the way there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hornbeam.attend.estimate.base import Estimate
from hornbeam.errors import ArgumentError

__all__ = ["Bounds"]


@dataclass(frozen=True)
class Bounds(Estimate):
    """The channel-wise greatest and least of a page's keys, rotated as they lie there. The score of a page is
    ``sum_d max(q_d * max_d, q_d * min_d)``, which no key of it exceeds. Quest (Tang et al. 2024, arXiv
    2406.10774, section 3.2).

    The bound supposes one key that is extreme in every channel, so that pages of varied keys are overrated. A
    ``slack`` below 1, which is ours, scores ``sum_d q_d * (max_d + min_d) / 2 + slack * |q_d| * (max_d -
    min_d) / 2``: what of the way from the middle of the bounds to the bound is believed. It bounds nothing.

    Args:
        slack: 0 to 1; 1 is Quest's bound.

    Raises:
        ArgumentError: it is no such number.
    """

    native: ClassVar[str] = "bounds"
    slack: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            isinstance(self.slack, bool)
            or not isinstance(self.slack, int | float)
            or not 0 <= self.slack <= 1
        ):
            raise ArgumentError(f"slack is {self.slack!r}, expected 0 to 1")

    @property
    def numbers(self) -> dict[str, Any]:
        """``slack``."""
        return {"slack": float(self.slack)}
