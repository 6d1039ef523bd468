"""StreamingLLM: where a token stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.keep.score.base import Score

__all__ = ["Position"]


@dataclass(frozen=True)
class Position(Score):
    """The first ``sinks`` tokens and the newest. StreamingLLM (arXiv 2309.17453). Logical
    positions are kept, where the paper renumbers them.

    Args:
        sinks: tokens at the start that are kept anyway.
    """

    native: ClassVar[str] = "position"
    sinks: int = 4
