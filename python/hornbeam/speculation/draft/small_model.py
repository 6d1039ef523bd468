"""Drafts by a second, smaller language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.speculation.branches import Key, NodeBranches
from hornbeam.speculation.draft.model_proposer import ModelProposer
from hornbeam.speculation.protocols import Ask, Law, Run, Target
from hornbeam.speculation.shape import Chain
from hornbeam.speculation.target_matrices import sample_of
from hornbeam.speculation.tree_building import Node, Shape, Tree, TreeBuilder

if TYPE_CHECKING:
    from hornbeam.cache.tree import Branch, Step
    from hornbeam.speculation.protocols import HasEngine

__all__ = ["SmallModel"]

# A draft that has more tokens to catch up with takes a step of its own for them.
CATCH_UP_ROWS = 64


@dataclass(frozen=True)
class SmallModel:
    """Any second :class:`hornbeam.LM` with the target's vocabulary, drafting on its own prefix tree.

    The drafts of all sequences grow together, a level of all of them in one ragged forward pass. What
    was accepted is not computed again, what was rejected is released.

    Args:
        lm: the draft model.
        shape: which tree it drafts, see :mod:`hornbeam.speculation.shape`.

    Raises:
        ArgumentError: from ``generate``, if the vocabularies differ in size.
    """

    lm: HasEngine
    shape: Shape = field(default_factory=Chain)

    @property
    def law(self) -> Law:
        """That of the shape."""
        return self.shape.law

    @property
    def lms(self) -> tuple[HasEngine]:
        """The models that are used beside the target."""
        return (self.lm,)

    def open(self, run: Run) -> SmallModelProposer:
        """Begins a run."""
        ours, theirs = self.lm.engine.runner.shape.vocab_size, run.target.runner.shape.vocab_size
        if ours != theirs:
            raise ArgumentError(f"the draft model has a vocabulary of {ours}, expected the target's {theirs}")
        return SmallModelProposer(run, self)


class SmallModelProposer(ModelProposer):
    """:class:`SmallModel` at work."""

    def __init__(self, run: Run, settings: SmallModel) -> None:
        super().__init__(run, settings.shape)
        self.own: Target = settings.lm.engine
        self._nodes = NodeBranches(self.own.tree, self._forward, owner=self.own)
        # Of each sequence a branch of certain tokens, and none besides.
        self._branches: dict[int, Branch] = {}
        # How often the model had changed when they were computed.
        self._changes = self.own.runner.changes

    def fork(self, index: int, child: int) -> bool:
        """Forks the sequence's branch."""
        branch = self._branches.get(index)
        if branch is not None:
            self._branches[child] = branch.fork()
        return True

    def begin(self, builder: TreeBuilder) -> None:
        """Moves every sequence's branch to what is certain by now, and computes what is far behind."""
        if self.own is not self.run.target:  # which is looked at before every step
            self.own.notice()
        if self._changes != self.own.runner.changes:
            self._renew()
        for ask in self.asks:
            if ask.index in self.trees:
                self._follow(ask, self.trees[ask.index])
        self._nodes.clear(self._branches.values())
        for tree in builder.trees:
            ask = tree.ask
            # The draft's own positions may end before the target's.
            tree.ask = replace(ask, max_tokens=min(ask.max_tokens, self.own.max_positions - ask.position))
            if tree.ask.max_tokens > 0:
                self._catch_up(ask)

    def _renew(self) -> None:
        """Lets go of what the model computed before it changed."""
        self._nodes.clear(self._branches.values())
        for branch in self._branches.values():
            branch.release(keep=False)
        self._branches.clear()
        self.trees.clear()
        self._nodes = NodeBranches(self.own.tree, self._forward, owner=self.own)
        self._changes = self.own.runner.changes

    def _follow(self, ask: Ask, drafted: Tree) -> None:
        """Takes up the branch of the last drafted token that became certain, if it was expanded."""
        token = -1
        # Not the pending token itself, even if it was expanded: its row gives the root's logits.
        for certain in ask.output[drafted.ask.position - len(ask.prompt) : -1]:
            children = [i for i, parent in enumerate(drafted.parents) if parent == token]
            branches = {i: self._nodes.get((ask.index, drafted.numbers[i])) for i in children}
            found = [i for i in children if drafted.tokens[i] == certain and branches[i]]
            branch = branches[found[0]] if found else None
            if branch is None:
                return
            token = found[0]
            self._branches[ask.index] = branch

    def _catch_up(self, ask: Ask) -> None:
        """Computes all certain tokens but the last few, in steps of their own."""
        branch = self._branches.get(ask.index)
        if branch is None:
            branch = self.own.tree.match(ask.prompt, max_tokens=len(ask.prompt))
            self._branches[ask.index] = branch
        while len(rest := _rest(ask, branch)) > CATCH_UP_ROWS:
            rows = rest[: min(len(rest) - 1, self.own.prefill_rows)]
            with self.own.tree.step([(branch, rows, None)], owner=self.own) as step:
                self._forward(step, [len(rows) - 1])
                step.commit([range(len(rows))])

    def expand(self, nodes: Sequence[Node]) -> Tensor:
        """One ragged forward pass: of a root the tokens to catch up with, of another node its own."""
        keys = [(self.growing[node.tree].ask.index, node.token) for node in nodes]
        requests: list[tuple[Key | Branch, list[int]]] = []
        for node, (index, token) in zip(nodes, keys, strict=True):
            tree = self.growing[node.tree]
            if token < 0:
                branch = self._branches[index]
                requests.append((branch, _rest(tree.ask, branch)))
            else:
                requests.append(((index, tree.parents[token]), [tree.tokens[token]]))
        return self._nodes.expand(keys, requests)

    def _forward(self, step: Step, rows: Sequence[int]) -> Tensor:
        output = self.own.forward(step, logits_rows=rows, hidden=self.needs_states)
        if output.hidden is not None:
            self.states = output.hidden[-1][torch.as_tensor(rows, device=output.logits.device)]
        return output.logits

    def signature(self) -> Tensor:
        """Some of the model's output matrix."""
        return sample_of(self.own.model)

    def finish(self, index: int) -> None:
        """Releases the sequence's branch; its tokens stay cached."""
        super().finish(index)
        branch = self._branches.pop(index, None)
        if branch is not None:
            branch.drop()
        if not self._branches:
            self._nodes.clear()


def _rest(ask: Ask, branch: Branch) -> list[int]:
    """The certain tokens that a branch does not hold yet."""
    begin = branch.length
    if begin >= len(ask.prompt):
        return list(ask.output[begin - len(ask.prompt) :])
    return [*ask.prompt[begin:], *ask.output]
