"""A beam of distinct sequences, drawn without replacement."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, expm1, inf, log, log1p
from typing import ClassVar

from hornbeam.errors import ArgumentError
from hornbeam.speculation.acceptance import AcceptanceByRank
from hornbeam.speculation.protocols import Law
from hornbeam.speculation.tree_building import Node, TreeBuilder

__all__ = ["StochasticBeam", "conditioned"]


@dataclass(frozen=True)
class StochasticBeam:
    """Keeps the ``width`` sequences of greatest perturbed log probability at each level: RSD-S (Jeon et
    al. 2024, "Recursive speculative decoding", section 3.2.2; the search is Kool et al. 2019).

    A child's perturbed value is drawn given that the greatest among siblings is the parent's own.
    Siblings are verified in descending order of it. What is kept depends on values alone, and which
    tokens hold them is independent of the values, so the siblings kept are draws without replacement.

    Args:
        width: sequences that are kept on a level.
        depth: levels.

    Raises:
        ArgumentError: ``width`` or ``depth`` is below 1.
    """

    law: ClassVar[Law] = "without_replacement"

    width: int = 4
    depth: int = 4

    def __post_init__(self) -> None:
        for name in ("width", "depth"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} is {getattr(self, name)}, expected at least 1")

    def grow(self, builder: TreeBuilder) -> None:
        """Level by level, ``width`` tokens each."""
        # Without noise this is beam search: the greatest value needs no conditioning.
        is_random = not builder.run.warp.is_greedy
        values: dict[Node, float] = dict.fromkeys(builder.roots(), 0.0)
        for _ in range(self.depth):
            level = [node for node in values if builder.room(node) > 0]
            candidates: dict[int, list[tuple[float, int, int]]] = {}
            drawn = builder.distinct(level, self.width)
            for place, (node, children) in enumerate(zip(level, drawn, strict=True)):
                if not children:
                    continue
                tree = builder.trees[node.tree]
                above = tree.paths[node.token] if node.token >= 0 else 0.0
                greatest = above + children[0].score
                for rank, child in enumerate(children):
                    value = above + child.score
                    if is_random and node.token >= 0:
                        value = conditioned(value, greatest, values[node])
                    candidates.setdefault(node.tree, []).append((-value, place, rank))
            below: dict[Node, float] = {}
            for _, own in sorted(candidates.items()):
                kept = sorted(own)[: self.width]
                # Parents in the order of their level, siblings in the order of drawing.
                for negative, place, rank in sorted(kept, key=lambda candidate: candidate[1:]):
                    below[builder.add(level[place], drawn[place][rank])] = -negative
            values = below

    def outline(self, record: AcceptanceByRank, max_tokens: int) -> None:
        """Draws decide on the tree."""
        return


def conditioned(value: float, greatest: float, parent: float) -> float:
    """A Gumbel value given that the greatest among its siblings, which is ``greatest``, is ``parent``:
    ``-log(exp(-parent) - exp(-greatest) + exp(-value))``, in the stable form of Kool et al. 2019,
    appendix B.3."""
    if value >= greatest:
        return parent
    shifted = parent - value + log(-expm1(value - greatest))
    if shifted == -inf:
        return parent
    return parent - max(0.0, shifted) - log1p(exp(-abs(shifted)))
