"""When memory runs short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.errors import ArgumentError
from hornbeam.keep.when.base import CacheState, When

__all__ = ["OnPressure"]


@dataclass(frozen=True)
class OnPressure(When):
    """When the bytes held pass a ``share`` of the byte budget; never without one.

    Args:
        share: of ``max_kv_bytes``, above 0 and at most 1.
    """

    within_prompt: ClassVar[bool] = True
    share: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ArgumentError(f"share is {self.share}, expected a number in (0, 1]")

    def due(self, moment: CacheState) -> bool:
        """Above ``share`` of the budget."""
        return moment.byte_budget is not None and moment.kv_bytes > self.share * moment.byte_budget
