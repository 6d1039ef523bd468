"""What all estimates declare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hornbeam.errors import ArgumentError

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """Base of all estimates: what is known of the keys of a page without reading them.

    Raises:
        ArgumentError: it is this base, which estimates nothing.
    """

    #: The name of the implementation in Rust.
    native: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if self.native is None:
            name = type(self).__name__
            raise ArgumentError(f"{name} names no implementation, expected a class that sets native")

    @property
    def numbers(self) -> dict[str, Any]:
        """Its numbers, by the names that the native rule has for them."""
        return {}
