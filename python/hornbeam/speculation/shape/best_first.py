"""Expand the likeliest, then rank everything again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.errors import ArgumentError
from hornbeam.speculation.acceptance import AcceptanceByRank
from hornbeam.speculation.protocols import Law
from hornbeam.speculation.tree_building import TreeBuilder

__all__ = ["BestFirst"]


@dataclass(frozen=True)
class BestFirst:
    """EAGLE-2's dynamic tree (Li et al. 2024, section 4): on every level the ``width`` nodes whose paths
    are likeliest get ``width`` children each; of all tokens scored, the ``size`` with the likeliest
    paths are drafted. A deterministic draft.

    We differ in that ties go to the token that was scored first.

    Args:
        size: tokens of the tree.
        width: nodes that are expanded on a level, and children of each.
        depth: levels.

    Raises:
        ArgumentError: an argument is below 1.
    """

    law: ClassVar[Law] = "deterministic"

    size: int = 24
    width: int = 4
    depth: int = 5

    def __post_init__(self) -> None:
        for name in ("size", "width", "depth"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} is {getattr(self, name)}, expected at least 1")

    def grow(self, builder: TreeBuilder) -> None:
        """Expands level by level, then keeps the best of all."""
        frontier = builder.roots()
        for _ in range(self.depth):
            frontier = [node for node in frontier if builder.room(node) > 0]
            children = builder.likeliest(frontier, self.width)
            scored: dict[int, list[tuple[float, int]]] = {}
            added = {}
            for node, own in zip(frontier, children, strict=True):
                for child in own:
                    new = builder.add(node, child)
                    path = builder.trees[new.tree].paths[new.token]
                    scored.setdefault(new.tree, []).append((-path, new.token))
                    added[new.tree, new.token] = new
            frontier = [
                added[tree, token]
                for tree, own in sorted(scored.items())
                for _, token in sorted(own)[: self.width]
            ]
        for tree in builder.trees:
            # A path is never likelier than its parent's, and comes after it: closed under parents.
            best = sorted(range(len(tree.tokens)), key=lambda token: (-tree.paths[token], token))
            tree.keep(sorted(best[: self.size]))

    def outline(self, record: AcceptanceByRank, max_tokens: int) -> None:
        """The probabilities decide on the tree."""
        return
