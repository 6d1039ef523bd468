"""Drafts from what verification threw away: the likeliest successors of every token, as last seen."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch

from hornbeam._native import Signals
from hornbeam.errors import ArgumentError
from hornbeam.speculation.protocols import Ask, Outcome, Run
from hornbeam.speculation.tree_building import DraftTree

__all__ = ["TokenRecycling"]

# What the siblings' ranks are expected to be worth before anything was judged: it settles the tree's
# shape, and is what a stop rule believes at first.
FIRST, NEXT = 0.5, 0.45


@dataclass(frozen=True)
class TokenRecycling:
    """A matrix of each token's ``width`` likeliest successors, drafted from by a static tree (Token
    Recycling, Luo et al. 2024).

    Every verified row, accepted or not, renews the successors of its token by the row's own top
    logits. Differs from the paper in that a prompt's own successions are entered too, since prompts are
    computed without logits, and in the tree, which is the best one of its size for acceptances that
    fall off geometrically with the rank instead of one tuned on a corpus.

    The matrix stays with the model: a later run goes on with what an earlier one learned, until
    :meth:`hornbeam.LM.clear_cache`.

    Args:
        size: tokens in the tree.
        width: successors kept of a token.
        depth: levels of the tree.

    Raises:
        ArgumentError: if one of them is below 1.
    """

    size: int = 60
    width: int = 8
    depth: int = 6

    def __post_init__(self) -> None:
        for name in ("size", "width", "depth"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} is {getattr(self, name)}, expected at least 1")

    def open(self, run: Run) -> Recycler:
        """Begins a run on the model's matrix."""
        recalled = run.target.recalled
        if self not in recalled:
            recalled[self] = Successors(run.target.runner.shape.vocab_size, self.width)
        return Recycler(self, recalled[self].ids)


class Successors:
    """Each token's likeliest successors as last seen, ``[V, width]``; -1 where there are none yet."""

    outlives_weights: ClassVar[bool] = True

    def __init__(self, vocab_size: int, width: int) -> None:
        self.ids = np.full((vocab_size, width), -1, dtype=np.int32)

    def forget(self) -> None:
        """Begins again."""
        self.ids.fill(-1)

    def recover(self) -> None:
        """Nothing is left open."""


class Recycler:
    """:class:`TokenRecycling` at work."""

    hidden_layers: tuple[int, ...] = ()

    def __init__(self, settings: TokenRecycling, successors: np.ndarray) -> None:
        self.settings = settings
        self.successors = successors
        self.tree = static_tree(settings.size, settings.width, settings.depth)

    def start(self, index: int, prompt_ids: Sequence[int]) -> None:
        """Enters the prompt's successions, the latest first."""
        for token, after in pairwise(prompt_ids):
            row = self.successors[token]
            if row[0] != after:
                others = row[row != after][: len(row) - 1]
                row[1 : 1 + len(others)] = others.copy()
                row[0] = after

    def fork(self, index: int, child: int) -> bool:
        """Sequences share the matrix."""
        return True

    def propose(self, asks: Sequence[Ask]) -> list[DraftTree]:
        """The static tree, as far as successors are known."""
        return [self._grow(ask) for ask in asks]

    def _grow(self, ask: Ask) -> DraftTree:
        tokens: list[int] = []
        parents: list[int] = []
        confidences: list[float] = []
        depths: list[int] = []
        index: dict[int, int] = {-1: -1}
        for node, (parent, rank) in enumerate(self.tree):
            above = index.get(parent)
            if above is None:
                continue
            depth = depths[above] + 1 if above >= 0 else 1
            token = int(self.successors[tokens[above] if above >= 0 else ask.pending, rank])
            # What was learned elsewhere may hold tokens that this model does not have.
            if not 0 <= token < len(self.successors) or depth > ask.max_tokens:
                continue
            index[node] = len(tokens)
            tokens.append(token)
            parents.append(above)
            depths.append(depth)
            confidences.append(FIRST * NEXT**rank)
        return DraftTree(tokens, Signals(confidences), parents)

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Renews the successors of every verified token."""
        for outcome in outcomes:
            if outcome.logits is not None:
                width = min(self.settings.width, outcome.logits.shape[1])
                best = torch.topk(outcome.logits, width, dim=-1).indices
                self.successors[outcome.token_ids, :width] = best.to("cpu", torch.int32).numpy()

    def finish(self, index: int) -> None:
        """Nothing is kept of a sequence."""


def static_tree(size: int, width: int, depth: int) -> list[tuple[int, int]]:
    """(parent, rank) of the tree's nodes, parents first: the ``size`` likeliest paths."""
    heap: list[tuple[float, int, int, int]] = []
    tree: list[tuple[int, int]] = []

    def offer(parent: int, level: int, likelihood: float) -> None:
        for rank in range(width if level <= depth else 0):
            heapq.heappush(heap, (-likelihood * FIRST * NEXT**rank, level, parent, rank))

    offer(-1, 1, 1.0)
    while heap and len(tree) < size:
        likelihood, level, parent, rank = heapq.heappop(heap)
        tree.append((parent, rank))
        offer(len(tree) - 1, level + 1, -likelihood)
    return tree
