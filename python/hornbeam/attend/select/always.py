"""Sinks and window alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.attend.select.base import Select

__all__ = ["Always"]


@dataclass(frozen=True)
class Always(Select):
    """The first ``sinks`` tokens and the last ``window``, and no others: whole pages of them. Nothing is
    estimated."""

    native: ClassVar[str] = "none"
    sinks: int = 4
    window: int = 1024
