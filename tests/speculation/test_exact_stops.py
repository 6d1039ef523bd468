"""Stop rules keep the target's law under every exact rule: by enumeration."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar

import pytest
import torch

import hornbeam as hb
from hornbeam.engine import drafting
from hornbeam.speculation import AcceptanceHead, Confidence, Entropy, Fixed, Signals, shape, step_draft
from hornbeam.speculation.acceptance import AcceptanceByRank
from hornbeam.speculation.stop.acceptance_head import AcceptanceStop
from hornbeam.speculation.tree_building import DraftTree
from tests.ops.test_verify_exact import WARPS, law_of
from tests.reference import draws
from tests.reference import entropy as entropies
from tests.reference import verify as reference
from tests.reference.verify import Enumeration
from tests.speculation.enumerated import (
    HEADS,
    SHAPES,
    Beam,
    Enumerated,
    Model,
    draw_shape,
    ends_by_the_head,
    is_exact,
    rules_for,
    stopped,
    verifying,
)


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
