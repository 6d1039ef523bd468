"""Values of the rest are folded into the nearest kept keys'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.cuda.merge import MergeRule
from hornbeam.keep.reduce.base import Reduce

__all__ = ["ValueMerge"]


@dataclass(frozen=True)
class ValueMerge(Reduce):
    """Values of the rest are folded into those of the most similar kept keys, by cosine and norm; keys
    stay. As kvpress's merging press.

    Args:
        threshold: the cosine with a kept key above which a value is folded into that key's, 0 to 1.
    """

    native: ClassVar[str] = "value_merge"
    threshold: float = 0.0

    @property
    def merge_rule(self) -> MergeRule | None:
        """The kernel's, unless a subclass in Python merges otherwise."""
        return MergeRule(self.native, self.threshold) if self.is_native else None
