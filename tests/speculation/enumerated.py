"""Draft trees whose draws are enumerated, so that the law of what a rule emits is known exactly.

The shapes are hornbeam's own, driven with draws that are enumerated; the rules are those of
tests/reference/verify.py, which tests/ops/test_verify.py holds the implementation to. Arithmetic is in
doubles: laws must agree to 1e-9 in total variation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import inf, log
from typing import Any

import numpy as np
import torch

import hornbeam as hb
from hornbeam.speculation import shape
from hornbeam.speculation.laws import RATIO_TESTS
from hornbeam.speculation.protocols import Ask, Run
from hornbeam.speculation.stop.acceptance_head import acceptance
from hornbeam.speculation.stop.gate import Gate
from hornbeam.speculation.tree_building import Child, Node, TreeBuilder
from tests.heads import acceptance_weights
from tests.ops.test_verify_exact import Model as RationalModel
from tests.ops.test_verify_exact import distance, joint
from tests.reference import draws
from tests.reference import verify as reference
from tests.reference.verify import Enumeration


class Model(RationalModel):
    """Random logits for every path, warped; laws in doubles."""

    def __init__(self, vocabulary: int, seed: int, warp: hb.Warp) -> None:
        super().__init__(vocabulary, seed, warp)
        self.state = cache(lambda path: torch.tensor(self.logits(path)))

    def _law(self, path: tuple[int, ...]) -> Any:
        return [float(p) for p in super()._law(path)]


def is_exact(law: Any, target: Model, depth: int) -> bool:
    return distance(law, joint(target, depth)) < 1e-9


def entropy(law: Sequence[float]) -> float:
    return -sum(p * log(p) for p in law if p)


class Enumerated(TreeBuilder):
    """A builder of one tree whose draws come from an :class:`Enumeration` of the draft's exact laws."""

    def __init__(
        self, chance: Enumeration, draft: Model, grows: Any, max_tokens: int = 99, gate: Gate | None = None
    ) -> None:
        run = Run(None, hb.Warp(), 0, "chain", gate=gate)  # type: ignore[arg-type]
        ask = Ask(0, 0, 0, 0, max_tokens)
        super().__init__(run, [ask], lambda nodes: None, grows.law, states=self._logits)  # type: ignore[arg-type, return-value]
        self.chance, self.draft = chance, draft
        self.nodes: Sequence[Node] = ()
        grows.grow(self)

    def _draw(self, nodes: Sequence[Node], counts: Any, noise: str) -> list[list[Child]]:
        counts = [counts] * len(nodes) if isinstance(counts, int) else counts
        if not nodes:
            return []
        self.nodes = nodes
        limits = self._limits(nodes) or [inf] * len(nodes)
        return [
            self._children(node, count, noise) if entropy(self._law_after(node)) <= limit else []
            for node, count, limit in zip(nodes, counts, limits, strict=True)
        ]

    def _logits(self) -> torch.Tensor:
        """In the place of hidden states: what the laws of the nodes come from."""
        paths = [tuple(self.trees[0].path(node.token)) for node in self.nodes]
        return torch.stack([self.draft.state(path) for path in paths])

    def _law_after(self, node: Node) -> Any:
        return self.draft.law(tuple(self.trees[0].path(node.token)))

    def _children(self, node: Node, count: int, noise: str) -> list[Child]:
        law = self._law_after(node)
        left, tokens = list(law), []
        while len(tokens) < count and any(left):
            if noise == "nothing":
                tokens.append(left.index(max(left)))
            else:
                tokens.append(self.chance.pick(1, 0, left))
            if noise != "independent":
                left[tokens[-1]] = 0.0
        return [Child(token, float(law[token]), 0.0) for token in tokens]

    def tree(self, kept: Sequence[int] | None = None) -> Any:
        """(tokens with parents, paths) of the tokens kept."""
        tree = self.trees[0]
        if kept is not None:
            tree.keep(kept)
        paths = [tuple(tree.path(token)) for token in range(len(tree.tokens))]
        return list(zip(tree.tokens, tree.parents, strict=True)), paths


class Beam:
    """The stochastic beam through its reference, since its values are real numbers: whose draws the
    shape's own are held to in test_draws.py. Nothing hangs below a path that ``ends``."""

    law = "without_replacement"

    def __init__(self, width: int, depth: int, ends: Any = lambda path: False) -> None:
        self.width, self.depth, self.ends = width, depth, ends


def draw_shape(grows: Any, draft: Model, gate: Any = None) -> Any:
    def draw(chance: Enumeration) -> Any:
        if isinstance(grows, Beam):
            return draws.beam(chance, draft.law, grows.width, grows.depth, grows.ends)
        return Enumerated(chance, draft, grows, gate=gate and gate()).tree()

    return draw


def verifying(rule: str, draft: Model | None) -> Any:
    def verify(tree: Any, laws: Any, path: Any, chance: Enumeration) -> Any:
        drawn_from = None if draft is None else lambda row: draft.law(path(row))
        return reference.verify(rule, tree, laws, drawn_from, chance)

    return verify


SHAPES: dict[str, tuple[int, int, Any]] = {
    "chain 1": (6, 2, shape.Chain(1)),
    "chain 3": (3, 4, shape.Chain(3)),
    "likeliest": (4, 3, shape.Fixed((2, 2))),
    "independent": (3, 3, shape.Fixed((2, 1), "independent")),
    "independent wide": (5, 2, shape.Fixed((2,), "independent")),
    "gumbel": (3, 3, shape.GumbelTree((2, 1))),
    "gumbel wide": (5, 2, shape.GumbelTree((3,))),
    "gumbel deep": (3, 4, shape.GumbelTree((1, 1, 2))),
    "beam": (3, 3, Beam(2, 2)),
    "beam wide": (4, 2, Beam(3, 1)),
    "sequoia": (3, 3, shape.Sequoia(3, 2, 2, acceptance=(0.5, 0.3))),
    "sequoia deep": (3, 4, shape.Sequoia(4, 3, 2, acceptance=(0.6, 0.1))),
    "best first": (4, 4, shape.BestFirst(4, 2, 3)),
}


def rules_for(law: Any) -> list[str]:
    """The exact rules that the driver runs for a law. Coupled verification is not among them: there a
    draft may know the target's noise, so it is proved by equality of texts, in test_shapes.py."""
    if law == "deterministic":
        return ["target_only", "chain"]  # any ratio test is the coupled rule, without a draft's law
    return [*(rule for rule, laws in RATIO_TESTS.items() if law in laws), "target_only"]


def stopped(grows: Any, draft: Model, choose: Any) -> Any:
    """Draws of a shape of which ``choose(tree, law)`` names the tokens verified."""

    def draw(chance: Enumeration) -> Any:
        grown = Enumerated(chance, draft, grows)
        return grown.tree(choose(grown.trees[0]))

    return draw


HEADS = {3: acceptance_weights(3, bias=1.5), 4: acceptance_weights(4, bias=1.5)}


def ends_by_the_head(draft: Model) -> Any:
    """What :class:`Accepting` decides after a path."""

    @cache
    def ends(path: tuple[int, ...]) -> bool:
        if not path:
            return False
        states = torch.tensor(np.array([draft.logits(path[:i]) for i in range(1, len(path) + 1)]))
        return bool(acceptance(HEADS[draft.vocabulary], states).prod() < 0.65)

    return ends
