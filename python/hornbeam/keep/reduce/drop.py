"""What is not kept is gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.keep.reduce.base import Reduce

__all__ = ["Drop"]


@dataclass(frozen=True)
class Drop(Reduce):
    """The rest is gone."""

    native: ClassVar[str] = "drop"

    @property
    def changes_kept(self) -> bool:
        """No, unless a subclass in Python does."""
        return not self.is_native
