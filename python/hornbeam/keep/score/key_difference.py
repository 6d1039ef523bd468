"""KeyDiff: how far a key is from the mean direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.keep.score.base import Score

__all__ = ["KeyDifference"]


@dataclass(frozen=True)
class KeyDifference(Score):
    """Minus the cosine between a key and the mean of the normalised keys. KeyDiff (arXiv 2504.15364)."""

    native: ClassVar[str] = "key_difference"
