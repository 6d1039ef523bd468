"""Quest: the greatest score that a key of the page can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.attend.estimate.base import Estimate

__all__ = ["Bounds"]


@dataclass(frozen=True)
class Bounds(Estimate):
    """The channel-wise greatest and least of a page's keys, rotated as they lie there. The score of a page is
    ``sum_d max(q_d * max_d, q_d * min_d)``, which no key of it exceeds. Quest (Tang et al. 2024, arXiv
    2406.10774, section 3.2)."""

    native: ClassVar[str] = "bounds"
