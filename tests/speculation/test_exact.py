"""Every exact rule keeps the target's law with every shape, warper and stop rule: by enumeration.

The shapes are hornbeam's own, driven with draws that are enumerated; the rules are those of
tests/reference/verify.py, which tests/ops/test_verify.py holds the implementation to. Arithmetic is in
doubles: laws must agree to 1e-9 in total variation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from math import inf, log
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import hornbeam as hb
from hornbeam.engine import drafting
from hornbeam.speculation import AcceptanceHead, Confidence, Entropy, Fixed, Signals, shape, step_draft
from hornbeam.speculation.acceptance import AcceptanceByRank
from hornbeam.speculation.laws import RATIO_TESTS, check_law
from hornbeam.speculation.protocols import Ask, Run
from hornbeam.speculation.stop.acceptance_head import AcceptanceStop, acceptance
from hornbeam.speculation.stop.gate import Gate
from hornbeam.speculation.tree_building import Child, DraftTree, Node, TreeBuilder
from tests.heads import acceptance_weights
from tests.ops.test_verify_exact import PAIRS, WARPS, distance, joint, law_of
from tests.ops.test_verify_exact import Model as RationalModel
from tests.reference import draws
from tests.reference import entropy as entropies
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


CASES = [(name, rule) for name, (_, _, grows) in SHAPES.items() for rule in rules_for(grows.law)]


@pytest.mark.parametrize(("name", "rule"), CASES)
@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
def test_every_rule_shape_and_warper(name: str, rule: str, pair: tuple[str, str]) -> None:
    vocabulary, depth, grows = SHAPES[name]
    check_law(grows.law, rule)
    target, draft = Model(vocabulary, 1, WARPS[pair[0]]), Model(vocabulary, 101, WARPS[pair[1]])
    drawn_from = None if grows.law == "deterministic" else draft
    law = law_of(verifying(rule, drawn_from), target, depth, draw_shape(grows, draft))
    assert is_exact(law, target, depth)


def test_the_sequoia_cases_are_trees() -> None:
    """Two siblings and two levels, or the cases above prove less than they say."""
    for name in ("sequoia", "sequoia deep"):
        parents = SHAPES[name][2].outline(AcceptanceByRank(), 9)
        assert max(parents.count(parent) for parent in parents) == 2
        assert max(parents) >= 0


# --- stops -------------------------------------------------------------------------------------------


def stopped(grows: Any, draft: Model, choose: Any) -> Any:
    """Draws of a shape of which ``choose(tree, law)`` names the tokens verified."""

    def draw(chance: Enumeration) -> Any:
        grown = Enumerated(chance, draft, grows)
        return grown.tree(choose(grown.trees[0]))

    return draw


def after_an_unlikely_token(draft: Model) -> Any:
    """Keeps the first token that the draft found unlikely, and stops after it: transformers' rule."""

    def choose(tree: Any) -> list[int]:
        for token in range(len(tree.tokens)):
            if tree.probabilities[token] < 0.4:
                return list(range(token + 1))
        return list(range(len(tree.tokens)))

    return choose


@pytest.mark.parametrize("rule", ["chain", "block", "without_replacement"])
def test_a_doubtful_token_that_is_kept(rule: str) -> None:
    for seed in range(4):
        target, draft = Model(3, seed, hb.Warp()), Model(3, seed + 100, WARPS["warm"])
        draw = stopped(shape.Chain(3), draft, after_an_unlikely_token(draft))
        assert is_exact(law_of(verifying(rule, draft), target, 4, draw), target, 4)


# A threshold at which some laws of the random models pass, and others do not.
FLAT = Entropy(gamma=0.5, threshold=0.35, min_length=0)
GATED = {name: SHAPES[name] for name in ("chain 3", "independent", "gumbel", "gumbel deep", "sequoia deep")}


@pytest.mark.parametrize(
    "pair", [("plain", "plain"), ("top-k", "warm"), ("penalties", "penalties")], ids="/".join
)
@pytest.mark.parametrize(
    ("name", "rule"), [(name, rule) for name in GATED for rule in rules_for(GATED[name][2].law)]
)
def test_entropy_stops_before_the_draw(name: str, rule: str, pair: tuple[str, str]) -> None:
    vocabulary, depth, grows = GATED[name]
    sizes = set()
    for seed in range(3):
        target, draft = Model(vocabulary, seed, WARPS[pair[0]]), Model(vocabulary, seed + 100, WARPS[pair[1]])
        draw = draw_shape(grows, draft, FLAT.start)
        assert is_exact(law_of(verifying(rule, draft), target, depth, draw), target, depth)
        sizes |= {len(tree) for _, (tree, _) in reference.outcomes(draw)}
    assert len(sizes) > 1


HEADS = {3: acceptance_weights(3, bias=1.5), 4: acceptance_weights(4, bias=1.5)}


class Accepting(AcceptanceStop):
    """An acceptance head with random weights, at work; it predicts once a state."""

    predicted: ClassVar[dict[Any, float]] = {}

    def __init__(self, vocabulary: int) -> None:
        super().__init__(AcceptanceHead("none", 0.35, 0), HEADS[vocabulary])

    def predict(self, states: torch.Tensor) -> list[float]:
        for state in states:
            if (key := tuple(state.tolist())) not in self.predicted:
                (self.predicted[key],) = super().predict(state[None])
        return [self.predicted[tuple(state.tolist())] for state in states]


@pytest.mark.parametrize(
    ("name", "rule"), [(name, rule) for name in GATED for rule in rules_for(GATED[name][2].law)]
)
def test_an_acceptance_head_stops_before_the_draw(name: str, rule: str) -> None:
    vocabulary, depth, grows = GATED[name]
    shapes = set()
    for seed in range(3):
        target, draft = Model(vocabulary, seed, hb.Warp()), Model(vocabulary, seed + 100, hb.Warp())
        draw = draw_shape(grows, draft, lambda: Accepting(vocabulary))
        assert is_exact(law_of(verifying(rule, draft), target, depth, draw), target, depth)
        shapes |= {tuple(parent for _, parent in tree) for _, (tree, _) in reference.outcomes(draw)}
    assert len(shapes) > 1


def ends_by_the_head(draft: Model) -> Any:
    """What :class:`Accepting` decides after a path."""

    @cache
    def ends(path: tuple[int, ...]) -> bool:
        if not path:
            return False
        states = torch.tensor(np.array([draft.logits(path[:i]) for i in range(1, len(path) + 1)]))
        return bool(acceptance(HEADS[draft.vocabulary], states).prod() < 0.65)

    return ends


@pytest.mark.parametrize(("vocabulary", "width"), [(3, 2), (4, 2)])
def test_an_acceptance_head_stops_a_beam(vocabulary: int, width: int) -> None:
    ended = set()
    for seed in range(3):
        target, draft = Model(vocabulary, seed, hb.Warp()), Model(vocabulary, seed + 100, hb.Warp())
        ends = ends_by_the_head(draft)
        draw = draw_shape(Beam(width, 2, ends), draft)
        law = law_of(verifying("without_replacement", draft), target, 3, draw)
        assert is_exact(law, target, 3)
        ended |= {ends((token,)) for token in range(vocabulary)}
    assert ended == {True, False}


def ends_where_flat(draft: Model) -> Any:
    """What :data:`FLAT` decides, by the reference."""
    return lambda path: entropies.bound(draft.law(path), FLAT.gamma) < FLAT.threshold


@pytest.mark.parametrize(("vocabulary", "width", "depth"), [(3, 2, 2), (4, 2, 2), (4, 3, 2)])
def test_entropy_stops_a_beam_before_the_draw(vocabulary: int, width: int, depth: int) -> None:
    """A node without children leaves their places on the beam to others: exact all the same, since the
    decision is made on what the levels above hold."""
    ended = set()
    for seed in range(4):
        target, draft = Model(vocabulary, seed, hb.Warp()), Model(vocabulary, seed + 100, hb.Warp())
        ends = ends_where_flat(draft)
        draw = draw_shape(Beam(width, depth, ends), draft)
        law = law_of(verifying("without_replacement", draft), target, depth + 1, draw)
        assert is_exact(law, target, depth + 1)
        ended |= {ends((token,)) for token in range(vocabulary) if not ends(())}
    assert ended == {True, False}


@pytest.mark.parametrize("length", [Confidence(0.4), Fixed(1), Fixed(3)], ids=repr)
def test_a_beam_under_a_predictable_stop(length: Any) -> None:
    """What :func:`hornbeam.speculation.laws.check_stop` lets through, through the rules' own code."""
    stop = length.start()
    for seed in range(3):
        target, draft = Model(3, seed, hb.Warp()), Model(3, seed + 100, hb.Warp())

        def draw(chance: Enumeration, draft: Model = draft) -> Any:
            tree, paths = draws.beam(chance, draft.law, 2, 2)
            tokens, parents = [token for token, _ in tree], [parent for _, parent in tree]
            signals = Signals([draft.law(path[:-1])[path[-1]] for path in paths])
            (chosen,) = stop.choose([DraftTree(tokens, signals, parents)])
            kept = step_draft.StepDraft.of(DraftTree(tokens, signals, parents), chosen)
            return list(zip(kept.tokens, kept.parents, strict=True)), [paths[node] for node in kept.nodes]

        law = law_of(verifying("without_replacement", draft), target, 3, draw)
        assert is_exact(law, target, 3)


@pytest.mark.parametrize("rule", ["chain", "block"])
def test_a_threshold_that_follows_acceptance(rule: str) -> None:
    """Rounds in turn, the threshold of each shaped by what came of the rounds before."""
    depth, lengths = 4, set()
    settings = Entropy(gamma=0.5, threshold=0.2, acceptance=0.6, step=0.5, threshold_memory=0.0, min_length=1)
    target, draft = Model(3, 2, hb.Warp()), Model(3, 102, hb.Warp())

    class After(Model):
        """A model that has read some tokens."""

        def __init__(self, model: Model, text: tuple[int, ...]) -> None:
            self.law = lambda path: model.law((*text, *path))  # type: ignore[assignment]
            self.state = lambda path: model.state((*text, *path))  # type: ignore[assignment]

    def experiment(chance: Enumeration) -> tuple[int, ...]:
        text: tuple[int, ...] = ()
        stop = settings.start()
        while len(text) < depth:
            drafts = After(draft, text)
            grown = Enumerated(chance, drafts, shape.Chain(2), gate=stop)
            tree, paths = grown.tree()
            path = lambda row, paths=paths: paths[row - 1] if row else ()  # noqa: E731
            laws_after = lambda row, path=path, text=text: target.law((*text, *path(row)))  # noqa: E731
            rows, token = verifying(rule, drafts)(tree, laws_after, path, chance)
            lengths.add((len(text), len(tree)))
            text = (*text, *(path(rows[-1]) if rows else ()), token)
            proposal = DraftTree(
                [t for t, _ in tree], Signals([0.5] * len(tree)), [parent for _, parent in tree]
            )
            stop.observe([proposal], [len(tree)], [[row - 1 for row in rows]])
        return text[:depth]

    law: dict[Any, Any] = defaultdict(float)
    for probability, text in reference.outcomes(experiment):
        law[text] += probability
    assert is_exact(law, target, depth)
    assert {(2, 1), (2, 2)} <= lengths  # the same text before, and another threshold


@pytest.mark.parametrize("wanted", [[0], [1], [0, 1, 3], [0, 1, 2, 4]], ids=str)
def test_outlines(wanted: list[int]) -> None:
    """What MeasuredGain decides under a ratio test: tokens named by their place, before any is drawn. A
    second sibling without the first, or a child of the second alone, are places too. Laws with fewer
    tokens than the outline has places draw fewer."""
    outline = DraftTree([0] * 6, Signals([0.5] * 6), shape.GumbelTree((2, 2)).outline(AcceptanceByRank(), 2))
    wanted = sorted({*wanted, *(outline.parents[node] for node in wanted if outline.parents[node] >= 0)})
    for warp in ("plain", "top-k", "top-p"):
        target, draft = Model(3, 2, hb.Warp()), Model(3, 102, WARPS[warp])

        def choose(tree: Any) -> list[int]:
            places = drafting._same_places(step_draft.StepDraft.of(outline, wanted), tree.parents)
            return [node for _, node in places]

        draw = stopped(shape.GumbelTree((2, 2)), draft, choose)
        law = law_of(verifying("without_replacement", draft), target, 3, draw)
        assert is_exact(law, target, 3)


# --- what would be biased -----------------------------------------------------------------------------


def dropping_what_is_unlikely(draft: Model) -> Any:
    """Drops the token that the draft found unlikely, for its own draw."""

    def choose(tree: Any) -> list[int]:
        for token in range(len(tree.tokens)):
            if tree.probabilities[token] < 0.4:
                return list(range(token))
        return list(range(len(tree.tokens)))

    return choose


def dropping_before_a_flat_law(draft: Model) -> Any:
    """Entropy a draw too late: drops a token because the law *after* it is flat."""

    def choose(tree: Any) -> list[int]:
        for token in range(len(tree.tokens)):
            if entropies.bound(draft.law(tuple(tree.path(token))), 0.5) < 0.35:
                return list(range(token))
        return list(range(len(tree.tokens)))

    return choose


def dropping_what_the_head_refuses(draft: Model) -> Any:
    """The token that the acceptance head expects to be refused, dropped itself."""

    ends = ends_by_the_head(draft)

    def choose(tree: Any) -> list[int]:
        for token in range(len(tree.tokens)):
            if ends(tuple(tree.path(token))):
                return list(range(token))
        return list(range(len(tree.tokens)))

    return choose


def pruning_siblings(draft: Model) -> Any:
    def choose(tree: Any) -> list[int]:
        return [token for token in range(len(tree.tokens)) if tree.probabilities[token] >= 0.34]

    return choose


def looking_ahead(draft: Model) -> Any:
    """Keeps the first token only if the second, drawn after it, came out likely: joint rules do this."""

    def choose(tree: Any) -> list[int]:
        return [0, 1] if tree.probabilities[1] >= 0.4 else []

    return choose


def keeping_the_likeliest_path(draft: Model) -> Any:
    """MeasuredGain on the probabilities of what was drawn, for a tree."""

    def choose(tree: Any) -> list[int]:
        best = sorted(range(len(tree.tokens)), key=lambda token: (-tree.paths[token], token))
        return sorted(best[:1])

    return choose


BIASED = {
    "a token dropped because its own q is low": ("chain", shape.Chain(2), dropping_what_is_unlikely),
    "a token dropped because the law after it is flat": (
        "chain",
        shape.Chain(2),
        dropping_before_a_flat_law,
    ),
    "a token dropped because the acceptance head refuses it": (
        "chain",
        shape.Chain(2),
        dropping_what_the_head_refuses,
    ),
    "siblings pruned by q": ("without_replacement", shape.GumbelTree((2,)), pruning_siblings),
    "a token dropped because of a later draw": ("chain", shape.Chain(2), looking_ahead),
    "the likeliest of the drawn siblings": (
        "without_replacement",
        shape.GumbelTree((2,)),
        keeping_the_likeliest_path,
    ),
}


@pytest.mark.parametrize("name", BIASED)
def test_biased_stops_are_seen(name: str) -> None:
    """The enumeration has teeth: rules that look at what was drawn move the law far beyond rounding under
    a ratio test, as notes on released systems say; the same rules are exact for ``target_only``, which
    hornbeam allows them for."""
    rule, grows, stop = BIASED[name]
    seen = 0.0
    for seed in range(6):
        target, draft = Model(3, seed, hb.Warp()), Model(3, seed + 100, hb.Warp())
        draw = stopped(grows, draft, stop(draft))
        seen = max(seen, distance(law_of(verifying(rule, draft), target, 2, draw), joint(target, 2)))
        assert is_exact(law_of(verifying("target_only", draft), target, 2, draw), target, 2)
    assert seen > 0.01


def test_a_softmax_as_the_law_of_an_argmax_is_seen() -> None:
    """A deterministic shape verified with its logits as if they had been drawn from: what several released
    generators did. hornbeam's driver hands no logits of a deterministic draft to a ratio test."""
    grows = shape.Fixed((2, 1))
    seen = 0.0
    for seed in range(4):
        target, draft = Model(3, seed, hb.Warp()), Model(3, seed + 100, hb.Warp())
        law = law_of(verifying("without_replacement", draft), target, 3, draw_shape(grows, draft))
        seen = max(seen, distance(law, joint(target, 3)))
    assert seen > 0.05


def test_a_wrong_pair_of_law_and_rule_is_biased() -> None:
    """Distinct siblings verified as independent ones, which check_law refuses."""
    seen = 0.0
    for seed in range(4):
        target, draft = Model(3, seed, hb.Warp()), Model(3, seed + 100, hb.Warp())
        draw = draw_shape(shape.GumbelTree((2,)), draft)
        law = law_of(verifying("with_replacement", draft), target, 2, draw)
        seen = max(seen, distance(law, joint(target, 2)))
    assert seen > 0.01
