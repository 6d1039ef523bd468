"""Once, at the end of a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.keep.when.base import CacheState, When

__all__ = ["AfterPrefill"]


@dataclass(frozen=True)
class AfterPrefill(When):
    """Once, when a prompt is complete."""

    repeats: ClassVar[bool] = False
    needs_bytes: ClassVar[bool] = False

    def due(self, moment: CacheState) -> bool:
        """At the end of a prompt."""
        return moment.prefilled
