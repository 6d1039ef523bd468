"""EMS: the greater of a local and a global mass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.keep.score.base import Score

__all__ = ["GlobalLocal"]


@dataclass(frozen=True)
class GlobalLocal(Score):
    """The greater of the pooled mean probability under the last ``window`` rows, and of the probability
    over all rows divided by the rows that see the key, brought to the same mean. The window is kept;
    needs the queries of every token. Our reading of the abstract of EMS (arXiv 2412.08521).

    Args:
        window: the last rows, whose mean is the local score; they are kept.
        kernel: tokens that scores are averaged over, an odd number.
    """

    native: ClassVar[str] = "global_local"
    window: int = 32
    kernel: int = 5
