"""D2O: those of the rest that are near enough are merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.cuda.merge import MergeRule
from hornbeam.keep.reduce.base import Reduce

__all__ = ["SimilarityMerge"]


@dataclass(frozen=True)
class SimilarityMerge(Reduce):
    """Those of the rest whose greatest cosine with a kept key is at least the mean one are merged, keys and
    values, weighted by exp(cosine). D2O (arXiv 2406.13035), its prefill rule."""

    native: ClassVar[str] = "similarity_merge"

    @property
    def merge_rule(self) -> MergeRule | None:
        """The kernel's, unless a subclass in Python merges otherwise."""
        return MergeRule(self.native) if self.is_native else None
