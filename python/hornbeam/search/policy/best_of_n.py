"""Best of n."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam import _native
from hornbeam.integers import whole_number
from hornbeam.search.policy.base import NativeSearch, Policy, Search

__all__ = ["BestOfN"]


@dataclass(frozen=True)
class BestOfN(Policy):
    """``n`` paths that go on by themselves. The baseline of all others.

    Attributes:
        n: how many.
    """

    name: ClassVar[str] = "best_of_n"

    n: int = 16

    def open(self, seed: int) -> Search:
        """Begins a search."""
        return NativeSearch(_native.SearchPolicy.independent(whole_number(self.n, "n", 1), self.max_depth))
