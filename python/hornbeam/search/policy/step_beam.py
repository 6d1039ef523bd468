"""Beam search over steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam import _native
from hornbeam.integers import whole_number
from hornbeam.search.policy.base import NativeSearch, Policy, Search

__all__ = ["StepBeam"]


@dataclass(frozen=True)
class StepBeam(Policy):
    """The best leaves of a round get ``children`` each, ``width`` in all (Snell et al. 2024, arXiv
    2408.03314, section 5.2). A path that has ended takes its place with it.

    Attributes:
        width: children of a round.
        children: of a leaf.
    """

    name: ClassVar[str] = "step_beam"

    width: int = 16
    children: int = 4

    def open(self, seed: int) -> Search:
        """Begins a search."""
        width, children = whole_number(self.width, "width", 1), whole_number(self.children, "children", 1)
        return NativeSearch(_native.SearchPolicy.beam(width, self.max_depth, children))
