"""The tree that is best on this machine for the acceptance seen so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from hornbeam.errors import ArgumentError
from hornbeam.speculation.acceptance import AcceptanceByRank
from hornbeam.speculation.protocols import Law
from hornbeam.speculation.tree_building import TreeBuilder

__all__ = ["Sequoia", "Table", "best_trees"]

# Steps between two looks at the acceptance: a table takes some milliseconds.
RENEWAL = 64


class Table(NamedTuple):
    """The dynamic programme's solution: ``expected[d][n]`` accepted tokens of the best tree of at most
    ``n`` tokens and ``d`` levels, and ``first[d][b][n]``, the tokens of the subtree of rank ``b`` when ``n``
    are left for it and its younger siblings; 0 ends the siblings."""

    expected: np.ndarray
    first: np.ndarray

    def parents(self, num_tokens: int, depth: int) -> list[int]:
        """The tree, level by level."""
        parents: list[int] = []
        level = [(-1, num_tokens)]
        for below in range(depth, 0, -1):
            following = []
            for node, left in level:
                for rank in range(self.first.shape[1]):
                    size = int(self.first[below][rank][left])
                    if size == 0:
                        break
                    following.append((len(parents), size - 1))
                    parents.append(node)
                    left -= size
            level = following
        return parents


@dataclass(frozen=True)
class Sequoia:
    """Sequoia's tree (Chen et al. 2024, section 4.1): a dynamic programme over (tokens, levels, siblings)
    finds for every size and depth the tree of most expected accepted tokens, from the probability that
    the sibling of rank b is the accepted one. Size and depth are those of most tokens a second, for the
    cost of a step as it is measured on this machine, and that of the draft's own passes.

    Siblings are drawn without replacement.

    Args:
        size: most tokens.
        depth: most levels.
        width: most siblings.
        acceptance: probabilities by rank; measured while decoding if left out. The paper measures them
            once, before.

    Raises:
        ArgumentError: a size is below 1, or the acceptances are not probabilities with a sum of at most 1.
    """

    law: ClassVar[Law] = "without_replacement"

    size: int = 48
    depth: int = 8
    width: int = 6
    acceptance: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("size", "depth", "width"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} is {getattr(self, name)}, expected at least 1")
        given = self.acceptance
        if given is not None and (not given or min(given) < 0 or sum(given) > 1 + 1e-9):
            raise ArgumentError(
                f"acceptance is {given}, expected probabilities by rank with a sum of at most 1"
            )

    def grow(self, builder: TreeBuilder) -> None:
        """Level by level, as many children as the plan says."""
        plans = [self.outline(builder.record, tree.ask.max_tokens) for tree in builder.trees]
        # A node of a tree and the node of the plan that it stands for.
        level = [(root, -1) for root in builder.roots()]
        while level:
            children = [
                [i for i, parent in enumerate(plans[node.tree]) if parent == place] for node, place in level
            ]
            wanted = [(node, own) for (node, _), own in zip(level, children, strict=True) if own]
            drawn = builder.distinct([node for node, _ in wanted], [len(own) for _, own in wanted])
            level = [
                (builder.add(node, child), place)
                for (node, own), found in zip(wanted, drawn, strict=True)
                for child, place in zip(found, own, strict=False)
            ]

    def outline(self, record: AcceptanceByRank, max_tokens: int) -> list[int]:
        """The plan: it knows nothing of this step's draws."""
        step, table = record.plans.get(self, (0, None))
        if table is None or step >= RENEWAL:
            given = self.acceptance
            ranks = record.acceptance(self.width) if given is None else given[: self.width]
            step, table = 0, best_trees(ranks, self.size, self.depth)
        record.plans[self] = (step + 1, table)
        size, depth = self._best(record, table, max_tokens)
        return table.parents(size, depth)

    def _best(self, record: AcceptanceByRank, table: Table, max_tokens: int) -> tuple[int, int]:
        """The size and depth of most tokens a second; the largest tree while no cost is known."""
        most = max(0, min(self.depth, max_tokens))
        cost = record.cost_curve
        if cost is None or cost.seconds(1) is None or most == 0:
            return self.size, most
        batch = record.num_sequences
        rows = np.array([cost.seconds(batch * (1 + n)) for n in range(self.size + 1)], dtype=np.float64)
        level = record.level_seconds or 0.0
        seconds = rows[None, :] + level * np.arange(most + 1)[:, None]
        rate = (1 + table.expected[: most + 1]) / seconds
        depth, size = np.unravel_index(int(np.argmax(rate)), rate.shape)
        return int(size), int(depth)


def best_trees(acceptance: list[float] | tuple[float, ...], size: int, depth: int) -> Table:
    """Solves the dynamic programme. ``acceptance[b]``: see :class:`Sequoia`."""
    width = len(acceptance)
    expected = np.zeros((depth + 1, size + 1))
    first = np.zeros((depth + 1, width + 1, size + 1), dtype=np.int32)
    for below in range(1, depth + 1):
        # Of the subtree of y tokens under a child, the child itself included, given its parent.
        subtree = 1 + expected[below - 1]
        younger = np.zeros(size + 1)
        for rank in range(width - 1, -1, -1):
            best = np.zeros(size + 1)
            for left in range(1, size + 1):
                gains = acceptance[rank] * subtree[:left] + younger[left - 1 :: -1][:left]
                at = int(np.argmax(gains))
                if gains[at] > 1e-12:
                    best[left] = gains[at]
                    first[below][rank][left] = at + 1
            younger = best
        expected[below] = younger
    return Table(expected, first[:, :width])
