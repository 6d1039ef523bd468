"""When a cache is reduced: always at a commit, so that provisional rows are never looked at."""

from __future__ import annotations

from dataclasses import dataclass

from hornbeam.errors import ArgumentError

__all__ = ["AfterPrefill", "CacheState", "EveryTokens", "OnPressure", "When"]


@dataclass(frozen=True)
class CacheState:
    """What is known at a commit."""

    prefilled: bool
    """The commit ended a prompt."""
    tokens_since: int
    """Tokens committed since the last reduction, or since the start."""
    kv_bytes: int
    """Bytes of keys and values that are held."""
    byte_budget: int | None = None
    """The hard limit, if there is one."""


@dataclass(frozen=True)
class When:
    """Base of all moments."""

    def due(self, moment: CacheState) -> bool:
        """Whether to reduce now."""
        raise NotImplementedError


@dataclass(frozen=True)
class AfterPrefill(When):
    """Once, when a prompt is complete."""

    def due(self, moment: CacheState) -> bool:
        """At the end of a prompt."""
        return moment.prefilled


@dataclass(frozen=True)
class EveryTokens(When):
    """When a prompt is complete, then whenever ``count`` tokens were committed."""

    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ArgumentError(f"count is {self.count}, expected at least 1")

    def due(self, moment: CacheState) -> bool:
        """At the end of a prompt, and ``count`` tokens after the last reduction."""
        return moment.prefilled or moment.tokens_since >= self.count


@dataclass(frozen=True)
class OnPressure(When):
    """When the bytes held pass a ``share`` of the byte budget; never without one."""

    share: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ArgumentError(f"share is {self.share}, expected a number in (0, 1]")

    def due(self, moment: CacheState) -> bool:
        """Above ``share`` of the budget."""
        return moment.byte_budget is not None and moment.kv_bytes > self.share * moment.byte_budget
