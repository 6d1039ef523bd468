"""EMS: the best of the rest join their nearest kept key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.cuda.merge import MergeRule
from hornbeam.keep.reduce.base import Reduce

__all__ = ["EvictThenMerge"]


@dataclass(frozen=True)
class EvictThenMerge(Reduce):
    """Of the rest, the best ``candidates`` times the number kept join the kept key of greatest cosine, or
    the zero class (nothing) below ``threshold``; keys and values become means weighted by score. Our
    reading of the abstract of EMS (arXiv 2412.08521); both constants are ours.

    Args:
        candidates: how many of the rest may be merged, as a multiple of the number kept.
        threshold: the least cosine at which one joins a kept key.
    """

    native: ClassVar[str] = "evict_then_merge"
    candidates: float = 1.0
    threshold: float = 0.6

    @property
    def merge_rule(self) -> MergeRule | None:
        """The kernel's, unless a subclass in Python merges otherwise."""
        return MergeRule(self.native, self.threshold, self.candidates) if self.is_native else None
