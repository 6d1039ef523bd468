"""What all selections declare, and how their numbers are checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number

__all__ = ["Select", "fraction", "pages_or_share"]

_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


@dataclass(frozen=True)
class Select:
    """Base of all selections: which pages a row reads, from their estimated scores.

    The last page of a row's text is always read, and so are ``sinks`` and ``window``; all of these count
    among the pages that are chosen. Of equal scores the page of the lowest index wins.

    Args:
        sinks: tokens at the start of the text that are always read.
        window: tokens before the row that are always read.

    Raises:
        ArgumentError: a number is out of its range; or it is this base, which selects nothing.
    """

    #: The name of the implementation in Rust.
    native: ClassVar[str | None] = None
    sinks: int = 0
    window: int = 0

    def __post_init__(self) -> None:
        if self.native is None:
            name = type(self).__name__
            raise ArgumentError(f"{name} names no implementation, expected a class that sets native")
        whole_number(self.sinks, "sinks")
        whole_number(self.window, "window")

    @property
    def numbers(self) -> dict[str, Any]:
        """Its numbers, beside ``sinks`` and ``window``, by the names that the native rule has for them."""
        return {}


def fraction(value: Any, name: str) -> float:
    """A number above 0 and at most 1.

    Args:
        value: to be checked.
        name: what it is called in an error.

    Raises:
        ArgumentError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ArgumentError(f"{name} is {value!r}, expected a number above 0 and at most 1")
    return float(value)


def pages_or_share(value: Any, name: str) -> dict[str, int | float]:
    """A count of pages, ``64``, as ``{"k": 64}``, or a share of all pages, ``"12%"``, as ``{"share": 0.12}``.

    Args:
        value: to be read.
        name: what it is called in an error.

    Raises:
        ArgumentError: it is neither.
    """
    expected = 'expected a number of pages of at least 1, or a share above 0 and up to 100 as "12%"'
    if isinstance(value, str):
        match = _PERCENT.fullmatch(value)
        share = 0.0 if match is None else float(match[1]) / 100
        if not 0 < share <= 1:
            raise ArgumentError(f"{name} is {value!r}, {expected}")
        return {"share": share}
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(f"{name} is {value!r}, {expected}")
    return {"k": value}
