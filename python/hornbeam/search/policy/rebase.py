"""REBASE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam import _native
from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number
from hornbeam.search.policy.base import NativeSearch, Policy, Search

__all__ = ["Rebase"]


@dataclass(frozen=True)
class Rebase(Policy):
    """What is left of the width is shared out over all leaves in proportion to ``exp(value / balance)`` (Wu
    et al. 2024, arXiv 2408.00724). The shares sum to it exactly, where the authors' float code may be one
    off. A path that has ended takes its place with it.

    Attributes:
        width: children of the first round.
        balance: the temperature of the shares; the authors' is 0.2 for values from 0 to 1.
    """

    name: ClassVar[str] = "rebase"

    width: int = 16
    balance: float = 0.2

    def open(self, seed: int) -> Search:
        """Begins a search."""
        if not 0 < self.balance < float("inf"):
            raise ArgumentError(f"balance is {self.balance}, expected a positive number")
        width = whole_number(self.width, "width", 1)
        return NativeSearch(_native.SearchPolicy.rebase(width, self.max_depth, self.balance))
