"""SnapKV: attention mass under the last rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.keep.score.base import Score

__all__ = ["WindowMass"]


@dataclass(frozen=True)
class WindowMass(Score):
    """Mean probability under the last ``window`` rows, average-pooled over ``kernel`` tokens, mean over the
    query heads of the group; the window is kept. SnapKV (arXiv 2404.14469); the defaults and
    the zero padding are kvpress's.

    Args:
        window: the last rows whose queries score the keys; they are kept themselves.
        kernel: tokens that scores are averaged over, an odd number.
    """

    native: ClassVar[str] = "window_mass"
    window: int = 64
    kernel: int = 5
