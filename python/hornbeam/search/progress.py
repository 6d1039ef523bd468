"""What whoever watches a search is told."""

from __future__ import annotations

from dataclasses import dataclass

from hornbeam.search.budget import Budget, Ledger
from hornbeam.search.path import SearchTree

__all__ = ["SearchProgress"]


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands after a round.

    Attributes:
        round: the number of the round, the first being 1.
        tree: all paths so far; it grows while the search goes on.
        live: numbers of the nodes that may be gone on from.
        ledger: what was spent; it goes on as well.
        budget: what may be spent.
    """

    round: int
    tree: SearchTree
    live: list[int]
    ledger: Ledger
    budget: Budget
