"""As few pages as hold so much of the estimated mass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hornbeam.attend.select.base import Select, fraction
from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number

__all__ = ["TopP"]


@dataclass(frozen=True)
class TopP(Select):
    """The smallest set of pages whose estimated probability mass reaches ``p``, within bounds. The mass of a
    page is its number of tokens times ``exp(scale * score)``, over the sum of all pages'. After Twilight (Lin
    et al. 2025, arXiv 2502.02770).

    Args:
        p: the mass to be reached, above 0 and at most 1.
        floor: pages that are read at least.
        cap: pages that are read at most; all if it is None.

    Raises:
        ArgumentError: a number is out of its range, or ``cap`` is below ``floor``.
    """

    native: ClassVar[str] = "topp"
    p: float = 0.85
    floor: int = 1
    cap: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self.p, "p")
        check_bounds(self.floor, self.cap)

    @property
    def numbers(self) -> dict[str, Any]:
        """``p``, ``floor`` and ``cap``."""
        return {"p": float(self.p), "floor": self.floor, "cap": self.cap}


def check_bounds(floor: Any, cap: Any) -> None:
    """Checks the bounds of a number of pages.

    Args:
        floor: the least.
        cap: the most, or None.

    Raises:
        ArgumentError: they are none.
    """
    whole_number(floor, "floor")
    if cap is not None and whole_number(cap, "cap", 1) < floor:
        raise ArgumentError(f"cap is {cap}, expected at least floor, which is {floor}")
