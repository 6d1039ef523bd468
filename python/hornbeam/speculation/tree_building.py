"""Growing the drafts of a batch, level by level: what shapes and model-based sources share.

A shape says which nodes to expand and how to draw their children; a source says which logits follow a
node (:class:`Expand`). In between, a :class:`TreeBuilder` keeps the trees, applies the caller's logits
processor along each path, and draws. Draws are keyed by (seed, sequence, position, node), so they
depend neither on the batch nor on the order of calls. A stop rule may be asked before each draw
(:mod:`hornbeam.speculation.stop.gate`): where it says no, a node has no children. Whatever the shape, the
noise is

- none where the target is greedy: children are the likeliest;
- the target's own where the verification is coupled: then a draft is right as often as a draft that
  does not know the target can be, and the text is settled by the target alone;
- the draft's own elsewhere, keyed by the position of the round's root: no earlier round has shown it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf, log
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam._native import Signals
from hornbeam.speculation.acceptance import AcceptanceByRank
from hornbeam.speculation.protocols import Ask, Law, Run
from hornbeam.speculation.rule import is_ratio_test, rule_of
from hornbeam.warp import Warp

__all__ = ["Child", "DraftTree", "Expand", "Node", "Shape", "Tree", "TreeBuilder"]

_LIKELIEST = Warp()


class Node(NamedTuple):
    """A node of one of the trees: the tree's place in the batch, and the token's index in it; -1 is the
    root, the pending token."""

    tree: int
    token: int


class Child(NamedTuple):
    """A drawn child: its token, its probability under the draft's warped law, and its score: the log
    probability, with Gumbel noise where there is noise and siblings are distinct."""

    token: int
    probability: float
    score: float


class Expand(Protocol):
    """What a source does for a shape. It gives the draft's raw logits after each node, ``[len(nodes), V]``,
    in one ragged forward pass. A node is asked for once, after its parent."""

    def __call__(self, nodes: Sequence[Node]) -> Tensor: ...


@dataclass(frozen=True)
class DraftTree:
    """A finished draft tree; see :class:`hornbeam.speculation.Drafted`, also for ``logits``, which are there
    where a ratio test wants them."""

    tokens: list[int]
    signals: Signals
    parents: list[int]
    logits: Tensor | None = None


@dataclass
class Tree:
    """One sequence's draft while it grows: parallel lists over tokens."""

    ask: Ask
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    #: Log probability of the path to each token, under the draft.
    paths: list[float] = field(default_factory=list)
    #: Probability of each token after its parent.
    probabilities: list[float] = field(default_factory=list)
    #: The number that each token got when it was added: that of its :class:`Node` while it grew.
    numbers: list[int] = field(default_factory=list)
    #: Logits after token i - 1 that children were drawn from, where a ratio test wants them.
    rows: dict[int, Tensor] = field(default_factory=dict)

    def path(self, token: int) -> list[int]:
        """The tokens from below the root to ``token``."""
        found = []
        while token >= 0:
            found.append(self.tokens[token])
            token = self.parents[token]
        return found[::-1]

    def depth(self, token: int) -> int:
        """Tokens on the path to ``token``; 0 for the root."""
        return 0 if token < 0 else self.depths[token]

    def keep(self, nodes: Sequence[int]) -> None:
        """Forgets all tokens but these, which are ascending and closed under parents."""
        index = {node: i for i, node in enumerate(nodes)} | {-1: -1}
        self.parents = [index[self.parents[node]] for node in nodes]
        for name in ("tokens", "depths", "paths", "probabilities", "numbers"):
            values = getattr(self, name)
            setattr(self, name, [values[node] for node in nodes])
        self.rows = {index[node]: row for node, row in self.rows.items() if node in index}


class TreeBuilder:
    """The drafts of one step, growing.

    Args:
        run: the run that is drafted for.
        asks: one a tree.
        expand: the source, see :class:`Expand`.
        law: of the shape.
        record: of acceptance by rank so far; an empty one by default.
        states: gives the hidden states ``[n, H]`` of the nodes that were expanded last, or None, for stop
            rules that read them.
    """

    def __init__(
        self,
        run: Run,
        asks: Sequence[Ask],
        expand: Expand,
        law: Law,
        record: AcceptanceByRank | None = None,
        states: Callable[[], Tensor | None] = lambda: None,
    ) -> None:
        self.run = run
        self.record = record or AcceptanceByRank()
        self.trees = [Tree(ask) for ask in asks]
        self._expand = expand
        # The hidden states of the nodes expanded last.
        self._states = states
        self._gate = run.gate
        if self._gate is not None:
            self._gate.begin(self.trees)
        self.is_ratio_test = is_ratio_test(run.rule, law, run.warp.is_greedy)
        self.shares_noise = rule_of(run.rule).shares_noise

    def roots(self) -> list[Node]:
        """The roots of the trees that may have tokens."""
        return [Node(i, -1) for i, tree in enumerate(self.trees) if tree.ask.max_tokens > 0]

    def room(self, node: Node) -> int:
        """Levels that may be added below a node."""
        tree = self.trees[node.tree]
        return tree.ask.max_tokens - tree.depth(node.token)

    def distinct(self, nodes: Sequence[Node], counts: int | Sequence[int]) -> list[list[Child]]:
        """So many children of each node, drawn without replacement, in the order of drawing; fewer where the
        law has no more, and none where the gate says so."""
        return self._draw(nodes, counts, "own")

    def independent(self, nodes: Sequence[Node], counts: int | Sequence[int]) -> list[list[Child]]:
        """So many children of each node, drawn independently of each other."""
        return self._draw(nodes, counts, "independent")

    def likeliest(self, nodes: Sequence[Node], counts: int | Sequence[int]) -> list[list[Child]]:
        """The likeliest children of each node, without chance."""
        return self._draw(nodes, counts, "nothing")

    def add(self, node: Node, child: Child) -> Node:
        """Adds a child to a node. Siblings are added in the order in which they were drawn."""
        tree = self.trees[node.tree]
        tree.tokens.append(child.token)
        tree.parents.append(node.token)
        tree.depths.append(tree.depth(node.token) + 1)
        above = tree.paths[node.token] if node.token >= 0 else 0.0
        tree.paths.append(above + _log(child.probability))
        tree.probabilities.append(child.probability)
        tree.numbers.append(len(tree.numbers))
        return Node(node.tree, len(tree.tokens) - 1)

    def finish(self) -> list[DraftTree]:
        """The drafts, one an ask. The confidences of tokens are their probabilities; of a token that was
        drawn several times, its first twin's alone, since no other twin can be accepted by a walk."""
        return [self._finished(tree) for tree in self.trees]

    def _finished(self, tree: Tree) -> DraftTree:
        logits = None
        if self.is_ratio_test and tree.tokens:
            logits = tree.rows[-1].new_zeros(1 + len(tree.tokens), tree.rows[-1].shape[-1])
            for token, row in tree.rows.items():
                logits[token + 1] = row
        seen: set[tuple[int, int]] = set()
        confidences = []
        for token, parent, probability in zip(tree.tokens, tree.parents, tree.probabilities, strict=True):
            confidences.append(0.0 if (parent, token) in seen else min(probability, 1.0))
            seen.add((parent, token))
        return DraftTree(tree.tokens, Signals(confidences), tree.parents, logits)

    def _draw(self, nodes: Sequence[Node], counts: int | Sequence[int], noise: str) -> list[list[Child]]:
        if not nodes:
            return []
        asks = [self.trees[node.tree].ask for node in nodes]
        paths = [self.trees[node.tree].path(node.token) for node in nodes]
        logits = self._processed(self._expand(nodes), asks, paths)
        # What is allowed next may not be among the tokens that the source knows.
        barren: list[bool] = [False] * len(nodes)
        if any(ask.processor is not None for ask in asks):
            barren = (logits == -torch.inf).all(dim=-1).tolist()
            logits[barren] = 0.0
        warp = self.run.warp
        positions = [ask.position for ask in asks]
        if warp.is_greedy:
            noise, warp = "nothing", _LIKELIEST
        elif self.shares_noise and noise != "nothing":
            noise = "shared"
            positions = [ask.position + len(path) for ask, path in zip(asks, paths, strict=True)]
        history = None
        if warp.has_penalties:
            history = [(ask.prompt, [*ask.output, *path]) for ask, path in zip(asks, paths, strict=True)]
        logits = logits.cpu()
        each = [counts] * len(nodes) if isinstance(counts, int) else list(counts)
        limits = self._limits(nodes)
        seeds = [self.run.seed if ask.seed is None else ask.seed for ask in asks]
        drawn: list[Any] = [None] * len(nodes)
        for seed in dict.fromkeys(seeds):
            own = [place for place, other in enumerate(seeds) if other == seed]
            is_all = len(own) == len(nodes)
            found = _native.draw(
                logits if is_all else logits[own],
                noise,
                [warp._handle],  # type: ignore[attr-defined]
                seed,
                [asks[place].number for place in own],
                [positions[place] for place in own],
                [nodes[place].token + 1 for place in own],
                [each[place] for place in own],
                None if history is None else [history[place] for place in own],
                limits if limits is None or is_all else [limits[place] for place in own],
            )
            for place, children in zip(own, found, strict=True):
                drawn[place] = children
        if self.is_ratio_test:
            for node, row in zip(nodes, logits, strict=True):
                self.trees[node.tree].rows[node.token] = row
        return [
            [] if is_barren else [Child(*child) for child in children]
            for children, is_barren in zip(drawn, barren, strict=True)
        ]

    def _limits(self, nodes: Sequence[Node]) -> Sequence[float] | None:
        """The entropies of laws up to which children of nodes are drawn, if a stop rule wants a say."""
        return None if self._gate is None else self._gate.limits(self.trees, nodes, self._states())

    def _processed(self, logits: Tensor, asks: Sequence[Ask], paths: Sequence[list[int]]) -> Tensor:
        """The logits, masked along each path as the target's will be."""
        if all(ask.processor is None for ask in asks):
            return logits
        return torch.cat(
            [
                row[None].float() if ask.processor is None else ask.processor(path, row)
                for ask, path, row in zip(asks, paths, logits, strict=True)
            ]
        )


class Shape(Protocol):
    """Which tree a model-based source drafts."""

    @property
    def law(self) -> Law:
        """How tokens come about, where the run samples."""

    def grow(self, builder: TreeBuilder) -> None:
        """Adds tokens to the trees of a builder.

        Args:
            builder: the drafts of one step; it draws, and adds what was drawn.
        """

    def outline(self, record: AcceptanceByRank, max_tokens: int) -> list[int] | None:
        """The parents of the tree that it draws for an ask of ``max_tokens``, where no draw of the step
        decides on them; a law with few tokens may leave some out.

        Args:
            record: how often each rank of sibling was accepted so far.
            max_tokens: levels that are wanted.
        """


def _log(probability: float) -> float:
    return log(probability) if probability > 0 else -inf
