"""Every exact rule keeps the target's law with every shape and warper, and what would be biased is seen: by
enumeration. Stop rules are in test_exact_stops.py.
"""

from __future__ import annotations

from typing import Any

import pytest

import hornbeam as hb
from hornbeam.speculation import shape
from hornbeam.speculation.acceptance import AcceptanceByRank
from hornbeam.speculation.laws import check_law
from tests.ops.test_verify_exact import PAIRS, WARPS, distance, joint, law_of
from tests.reference import entropy as entropies
from tests.speculation.enumerated import (
    SHAPES,
    Model,
    draw_shape,
    ends_by_the_head,
    is_exact,
    rules_for,
    stopped,
    verifying,
)

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
