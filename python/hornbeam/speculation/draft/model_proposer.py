"""The proposer of a source that draws its tokens from logits, whatever the shape."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from hornbeam._native import Signals
from hornbeam.speculation.acceptance import AcceptanceByRank
from hornbeam.speculation.protocols import Ask, Law, Outcome, Run
from hornbeam.speculation.tree_building import DraftTree, Node, Shape, Tree, TreeBuilder

__all__ = ["ModelProposer"]


class ModelProposer(ABC):
    """Drives a shape over all sequences of a run. A source derives from it and implements
    :meth:`begin`, :meth:`expand`, and what it needs of ``start``, ``observe`` and ``finish``, calling
    these of this class.

    ``trees`` holds the last draft of each sequence, by its index in the run: tokens that were added and
    not dropped by the shape.
    """

    hidden_layers: tuple[int, ...] = ()
    takes_gates: ClassVar[bool] = True

    def __init__(self, run: Run, shape: Shape) -> None:
        self.run = run
        self.shape = shape
        self.record = AcceptanceByRank(run.target.cost_curve)
        self.asks: list[Ask] = []
        #: The trees of the draft that grows, in the order of the asks.
        self.growing: list[Tree] = []
        self.trees: dict[int, Tree] = {}
        #: Whether :meth:`expand` is to leave its nodes' hidden states, ``[len(nodes), H]``, in ``states``.
        self.needs_states = run.gate is not None and run.gate.needs_states
        self.states: Tensor | None = None

    @property
    def law(self) -> Law:
        """That of the shape."""
        return self.shape.law

    def start(self, index: int, prompt_ids: Sequence[int]) -> None:
        """Begins a sequence; nothing needs to be known of its prompt."""
        return

    def fork(self, index: int, child: int) -> bool:
        """Begins a sequence where another is; nothing is known of it that is not in the ask."""
        return True

    def propose(self, asks: Sequence[Ask]) -> list[DraftTree]:
        """One draft for each ask."""
        self.asks = list(asks)
        self.record.num_sequences = max(len(self.asks), 1)
        builder = TreeBuilder(
            self.run, self.asks, self._timed_expand, self.shape.law, self.record, lambda: self.states
        )
        self.begin(builder)
        self.growing = builder.trees
        self.shape.grow(builder)
        self.trees = {ask.index: tree for ask, tree in zip(self.asks, builder.trees, strict=True)}
        return builder.finish()

    def outline(self, ask: Ask) -> DraftTree | None:
        """The tree that would be drawn, with acceptances by rank as confidences."""
        parents = self.shape.outline(self.record, ask.max_tokens)
        if parents is None:
            return None
        ranks: list[int] = []
        seen: dict[int, int] = {}
        for parent in parents:
            ranks.append(seen.get(parent, 0))
            seen[parent] = ranks[-1] + 1
        acceptance = self.record.acceptance(max(ranks, default=-1) + 1)
        return DraftTree([0] * len(parents), Signals([acceptance[rank] for rank in ranks]), parents)

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Records a forward pass."""
        for outcome in outcomes:
            self.record.observe(outcome)

    def finish(self, index: int) -> None:
        """Ends a sequence."""
        self.trees.pop(index, None)

    def begin(self, builder: TreeBuilder) -> None:
        """Called before a draft grows. ``builder.trees[i]`` belongs to ``self.asks[i]``."""
        return

    @abstractmethod
    def signature(self) -> Tensor:
        """Some numbers ``[n]``, float32, that tell this draft from others: what was trained on its hidden
        states is of no use for them."""

    @abstractmethod
    def expand(self, nodes: Sequence[Node]) -> Tensor:
        """The draft's raw logits after each node; see :class:`hornbeam.speculation.tree_building.Expand`."""

    def _timed_expand(self, nodes: Sequence[Node]) -> Tensor:
        begin = time.perf_counter()
        logits = self.expand(nodes)
        self.record.observe_level(time.perf_counter() - begin)
        return logits
