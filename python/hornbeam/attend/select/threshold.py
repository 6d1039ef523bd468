"""Every page that holds at least so much of the estimated mass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hornbeam.attend.select.base import Select, fraction
from hornbeam.attend.select.top_p import check_bounds

__all__ = ["Threshold"]


@dataclass(frozen=True)
class Threshold(Select):
    """The pages whose estimated share of the probability mass, as :class:`TopP` has it, is at least
    ``share``.

    Args:
        share: of the mass, above 0 and at most 1.
        floor: pages that are read at least.
        cap: pages that are read at most; all if it is None.

    Raises:
        ArgumentError: a number is out of its range, or ``cap`` is below ``floor``.
    """

    native: ClassVar[str] = "threshold"
    share: float = 0.001
    floor: int = 1
    cap: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self.share, "share")
        check_bounds(self.floor, self.cap)

    @property
    def numbers(self) -> dict[str, Any]:
        """``threshold``, ``floor`` and ``cap``."""
        return {"threshold": float(self.share), "floor": self.floor, "cap": self.cap}
