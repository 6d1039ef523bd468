"""TOVA: attention of the last row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.keep.score.base import Score

__all__ = ["LastQuery"]


@dataclass(frozen=True)
class LastQuery(Score):
    """Probability under the last row, mean over all heads of the layer. TOVA (arXiv 2401.06104)."""

    native: ClassVar[str] = "last_query"
