"""WindowKV: attention mass of windows of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hornbeam.keep.score.base import Score

__all__ = ["WindowTokens"]


@dataclass(frozen=True)
class WindowTokens(Score):
    """Probability of windows of ``window`` tokens under the last ``suffix`` rows, mean over the layer.
    Windows are kept whole, and the suffix is kept. ``pool`` is the mean of a window, or ("max") of its
    greater half. WindowKV (arXiv 2503.17922), where a classifier picks the pool; here the caller does.
    ``suffix`` is 16 for the mean and 32 for the max unless given.

    Args:
        window: tokens that are kept or dropped together.
        suffix: the last rows, whose queries score the keys; they are kept.
        pool: ``"mean"`` or ``"max"``, see above.
    """

    native: ClassVar[str] = "window_tokens"
    window: int = 8
    suffix: int | None = None
    pool: Literal["mean", "max"] = "mean"
