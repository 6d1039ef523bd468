"""What is known when a moment is asked whether to reduce, and what all moments declare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.errors import ArgumentError
from hornbeam.keep.factor import Factor

__all__ = ["CacheState", "When"]


@dataclass(frozen=True)
class CacheState:
    """What is known at a commit."""

    prefilled: bool
    """The commit ended a prompt."""
    tokens_since: int
    """Tokens committed since the last reduction, or since the start."""
    kv_bytes: int
    """Bytes of keys and values that are held; 0 for a moment that does not ask, see
    :attr:`When.needs_bytes`."""
    byte_budget: int | None = None
    """The hard limit, if there is one."""


@dataclass(frozen=True)
class When(Factor):
    """Base of all moments. One of your own overrides :meth:`due`."""

    kind: ClassVar[str] = "when"
    method: ClassVar[str] = "due"
    #: Whether it may be due after the end of the prompt too.
    repeats: ClassVar[bool] = True
    #: Whether it is also asked while a prompt is being read, at each commit of a part of it.
    within_prompt: ClassVar[bool] = False
    #: Whether it looks at :attr:`CacheState.kv_bytes`.
    needs_bytes: ClassVar[bool] = True

    @property
    def period(self) -> int | None:
        """Tokens since the last reduction at which a commit has to end, so that drafts do not move the
        moment; None where it depends on no such number."""
        return None

    def due(self, moment: CacheState) -> bool:
        """Whether to reduce now.

        Args:
            moment: what is known of the cache.
        """
        raise ArgumentError(f"{type(self).__name__} has no method due, expected a class that overrides it")
