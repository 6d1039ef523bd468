"""A*-Decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hornbeam import _native
from hornbeam.integers import whole_number
from hornbeam.search.policy.base import NativeSearch, Policy, Search

__all__ = ["AStar"]


@dataclass(frozen=True)
class AStar(Policy):
    """The leaf of least ``g + (1 - value)`` goes on next, into ``children``; the search is over when that
    leaf has ended (A*-Decoding). Values are from 0 to 1. The paper's own ``g`` is not at hand: ``cost``
    chooses one of ours.

    Attributes:
        children: of a leaf.
        cost: what a path has cost: ``"nothing"``, ``"doubt"`` (the sum of 1 - value along it) or
            ``"falls"`` (the sum of what the value fell along it).
        answers: ended leaves to come to before the search is over.
    """

    name: ClassVar[str] = "a_star"
    wants_probability: ClassVar[bool] = True

    children: int = 4
    cost: Literal["nothing", "doubt", "falls"] = "nothing"
    answers: int = 1

    def open(self, seed: int) -> Search:
        """Begins a search."""
        children, answers = (
            whole_number(self.children, "children", 1),
            whole_number(self.answers, "answers", 1),
        )
        return NativeSearch(_native.SearchPolicy.best_first(children, self.max_depth, self.cost, answers))
