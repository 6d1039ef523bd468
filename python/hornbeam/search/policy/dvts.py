"""Diverse verifier tree search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam import _native
from hornbeam.integers import whole_number
from hornbeam.search.policy.base import NativeSearch, Policy, Search

__all__ = ["DVTS"]


@dataclass(frozen=True)
class DVTS(Policy):
    """Subtrees that do not compete, ``width / children`` of them: each goes on from the best of its
    ``children`` (Beeching et al. 2024, "Scaling test-time compute with open models").

    Attributes:
        width: children of a round.
        children: of a subtree.
    """

    name: ClassVar[str] = "dvts"

    width: int = 16
    children: int = 4

    def open(self, seed: int) -> Search:
        """Begins a search."""
        width, children = whole_number(self.width, "width", 1), whole_number(self.children, "children", 1)
        return NativeSearch(_native.SearchPolicy.subtrees(width, self.max_depth, children))
