"""The pages before the bend of the sorted scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hornbeam.attend.select.base import Select
from hornbeam.attend.select.top_p import check_bounds

__all__ = ["Elbow"]


@dataclass(frozen=True)
class Elbow(Select):
    """Pages sorted by score, cut where the curve lies farthest below the chord from its first point to its
    last; of equal distances where the fewest pages are read.

    Args:
        floor: pages that are read at least.
        cap: pages that are read at most; all if it is None.

    Raises:
        ArgumentError: a number is out of its range, or ``cap`` is below ``floor``.
    """

    native: ClassVar[str] = "elbow"
    floor: int = 1
    cap: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self.floor, self.cap)

    @property
    def numbers(self) -> dict[str, Any]:
        """``floor`` and ``cap``."""
        return {"floor": self.floor, "cap": self.cap}
