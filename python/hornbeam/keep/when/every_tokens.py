"""At the end of a prompt, then every so many tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.errors import ArgumentError
from hornbeam.keep.when.base import CacheState, When

__all__ = ["EveryTokens"]


@dataclass(frozen=True)
class EveryTokens(When):
    """When a prompt is complete, then whenever ``count`` tokens were committed.

    Args:
        count: tokens between two reductions, at least 1.
    """

    needs_bytes: ClassVar[bool] = False
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ArgumentError(f"count is {self.count}, expected at least 1")

    @property
    def period(self) -> int:
        """``count``: a commit ends there."""
        return self.count

    def due(self, moment: CacheState) -> bool:
        """At the end of a prompt, and ``count`` tokens after the last reduction."""
        return moment.prefilled or moment.tokens_since >= self.count
