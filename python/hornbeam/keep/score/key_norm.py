"""Knorm: the norm of a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.keep.score.base import Score

__all__ = ["KeyNorm"]


@dataclass(frozen=True)
class KeyNorm(Score):
    """Minus the norm of the key. Knorm (arXiv 2406.11430)."""

    native: ClassVar[str] = "key_norm"
