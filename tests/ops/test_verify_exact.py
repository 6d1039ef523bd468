"""Every exact rule leaves the target's law as it is: proved by enumeration, in rationals.

The laws are warped ones (integer weights), of logits that depend on the path, with penalties that
follow it. The rules are those of tests/reference/verify.py, to which test_verify.py holds the
implementation decision by decision.
"""

from collections import defaultdict
from fractions import Fraction
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from tests.reference import verify as reference
from tests.reference import warp as reference_warp
from tests.reference.verify import Enumeration, Law

import hornbeam as hb

WARPS = {
    "plain": hb.Warp(),
    "warm": hb.Warp(temperature=1.7),
    "top-k": hb.Warp(temperature=0.8, top_k=2),
    "top-p": hb.Warp(temperature=0.7, top_p=0.8),
    "min-p": hb.Warp(min_p=0.3),
    "penalties": hb.Warp(repetition_penalty=1.4, frequency_penalty=0.6, presence_penalty=0.3),
    "bias": hb.Warp(temperature=0.9, bias={0: -float("inf"), 1: 1.5}, top_p=0.9),
    "greedy": hb.Warp(temperature=0),
}
PAIRS = [
    ("plain", "plain"),
    ("warm", "plain"),
    ("plain", "greedy"),
    ("top-k", "top-p"),
    ("top-p", "warm"),
    ("min-p", "top-k"),
    ("penalties", "penalties"),
    ("bias", "bias"),
    ("greedy", "plain"),
]


class Model:
    """Random logits for every path, warped."""

    def __init__(self, vocabulary: int, seed: int, warp: hb.Warp) -> None:
        self.vocabulary, self.seed, self.warp = vocabulary, seed, warp
        self.law = cache(self._law)

    def logits(self, path: tuple[int, ...]) -> Any:
        rng = np.random.default_rng([self.seed, len(path), *path])
        return rng.normal(0, 1.5, self.vocabulary).astype(np.float32)

    def _law(self, path: tuple[int, ...]) -> Law:
        return reference_warp.law(self.logits(path), self.warp, prompt=(1,), output=(0, *path))


def joint(model: Model, depth: int) -> dict[tuple[int, ...], Fraction]:
    """The law of the next ``depth`` tokens."""
    law = {}
    for tokens in product(range(model.vocabulary), repeat=depth):
        p = Fraction(1)
        for i, token in enumerate(tokens):
            p *= model.law(tokens[:i])[token]
        if p:
            law[tokens] = p
    return law


def draw_tree(chance: Enumeration, draft: Model, branching: tuple[int, ...], *, distinct: bool) -> Any:
    """A tree whose tokens are drawn, level by level; siblings in the order of drawing."""
    tree: list[tuple[int, int]] = []
    paths: list[tuple[int, ...]] = []
    level = [(-1, ())]
    for width in branching:
        below = []
        for parent, path in level:
            q = list(draft.law(path))
            for _ in range(width):
                if not any(q):
                    break
                token = chance.pick(1, 0, q)
                tree.append((token, parent))
                paths.append((*path, token))
                below.append((len(tree) - 1, (*path, token)))
                if distinct:
                    q[token] = Fraction(0)
        level = below
    return tree, paths


def law_of(rule: Any, target: Model, depth: int, draw: Any) -> dict[tuple[int, ...], Fraction]:
    """The law of the first ``depth`` tokens when ``rule`` verifies and the target goes on alone."""

    def experiment(chance: Enumeration) -> tuple[int, ...]:
        tree, paths, *rest = draw(chance)
        path = lambda row: paths[row - 1] if row else ()  # noqa: E731
        rows, token = rule(tree, lambda row: target.law(path(row)), path, chance, *rest)
        return ((*path(rows[-1]), token) if rows else (token,))[:depth]

    law: dict[tuple[int, ...], Fraction] = defaultdict(Fraction)
    for probability, tokens in reference.outcomes(experiment):
        for tail, p in joint_after(target, tokens, depth).items():
            law[(*tokens, *tail)] += probability * p
    return {tokens: p for tokens, p in law.items() if p}


def joint_after(target: Model, tokens: tuple[int, ...], depth: int) -> dict[tuple[int, ...], Fraction]:
    if len(tokens) == depth:
        return {(): Fraction(1)}
    tails = {}
    for token, p in enumerate(target.law(tokens)):
        if p:
            for tail, rest in joint_after(target, (*tokens, token), depth).items():
                tails[(token, *tail)] = p * rest
    return tails


def distance(a: dict[tuple[int, ...], Fraction], b: dict[tuple[int, ...], Fraction]) -> float:
    """Total variation."""
    return float(sum(abs(a.get(k, 0) - b.get(k, 0)) for k in {*a, *b}) / 2)


SHAPES = {
    "chain": [(3, (1,)), (3, (1, 1)), (3, (1, 1, 1)), (5, (1, 1)), (6, (1,)), (3, ())],
    "block": [(3, (1,)), (3, (1, 1)), (3, (1, 1, 1)), (5, (1, 1))],
    "with_replacement": [(3, (2,)), (3, (2, 1)), (4, (3,)), (3, (1, 2)), (6, (2,))],
    "without_replacement": [
        (3, (2,)),
        (3, (2, 1)),
        (4, (3,)),
        (3, (1, 2)),
        (3, (4,)),
        (6, (2,)),
        (3, (1, 1, 1)),
    ],
}
DRAWN = [(rule, *shape) for rule, shapes in SHAPES.items() for shape in shapes]


@pytest.mark.parametrize(("rule", "vocabulary", "branching"), DRAWN)
@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
def test_drawn_drafts(rule: str, vocabulary: int, branching: tuple[int, ...], pair: tuple[str, str]) -> None:
    for seed in range(2):
        target = Model(vocabulary, seed, WARPS[pair[0]])
        draft = Model(vocabulary, seed + 100, WARPS[pair[1]])
        depth = len(branching) + 1

        def draw(chance: Enumeration) -> Any:
            return draw_tree(chance, draft, branching, distinct=rule != "with_replacement")  # noqa: B023

        def verify(tree: Any, laws: Any, path: Any, chance: Enumeration) -> Any:
            return reference.verify(rule, tree, laws, lambda row: draft.law(path(row)), chance)  # noqa: B023

        assert law_of(verify, target, depth, draw) == joint(target, depth)


TREES = [
    [],
    [(0, -1)],
    [(1, -1), (2, 0), (0, 1)],
    [(2, -1), (0, -1), (1, 0), (2, 0), (0, 1)],
    [(0, -1), (0, -1), (1, 0), (2, 1)],
]


@pytest.mark.parametrize(
    "rule", ["chain", "block", "with_replacement", "without_replacement", "target_only", "coupled"]
)
@pytest.mark.parametrize("warp", WARPS)
@pytest.mark.parametrize("tree", TREES, ids=len)
def test_chosen_drafts(rule: str, warp: str, tree: Any) -> None:
    """A draft that was chosen, not drawn: no rule but reads the target alone."""
    paths: list[tuple[int, ...]] = []
    for token, parent in tree:
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    for seed in range(3):
        target = Model(3, seed, WARPS[warp])
        verify = lambda tree, laws, path, chance: reference.verify(rule, tree, laws, None, chance)  # noqa: E731
        assert law_of(verify, target, 3, lambda chance: (tree, paths)) == joint(target, 3)


@pytest.mark.parametrize(("vocabulary", "branching"), SHAPES["with_replacement"])
def test_independent_siblings_may_be_verified_as_distinct(
    vocabulary: int, branching: tuple[int, ...]
) -> None:
    """A repeated token is passed over, and given that it is new, a sibling follows the draft's law
    without the refused tokens. The converse is biased: see below."""
    target, draft = (Model(vocabulary, seed, hb.Warp()) for seed in (5, 6))
    law = law_of(
        lambda t, p, path, c: reference.recursive(t, p, lambda row: draft.law(path(row)), c, distinct=True),
        target,
        len(branching) + 1,
        lambda chance: draw_tree(chance, draft, branching, distinct=False),
    )
    assert law == joint(target, len(branching) + 1)


def biased(name: str, target: Model, draft: Model) -> dict[tuple[int, ...], Fraction]:
    """Laws of variants that were released somewhere."""

    def drawn(branching: tuple[int, ...], distinct: bool = True) -> Any:
        return lambda chance: draw_tree(chance, draft, branching, distinct=distinct)

    def laws(path: Any) -> Any:
        return lambda row: draft.law(path(row))

    def dropping(chance: Enumeration) -> Any:
        tree, paths = draw_tree(chance, draft, (1,), distinct=True)
        keep = draft.law(())[tree[0][0]] >= Fraction(1, 3)
        return (tree, paths) if keep else ([], [])

    def argmax(chance: Enumeration) -> Any:
        q = draft.law(())
        token = q.index(max(q))
        return [(token, -1)], [(token,)]

    def pruned(chance: Enumeration) -> Any:
        tree, paths = draw_tree(chance, draft, (2,), distinct=True)
        kept = [i for i, (token, _) in enumerate(tree) if draft.law(())[token] >= Fraction(1, 3)]
        return [tree[i] for i in kept], [paths[i] for i in kept]

    def reused(tree: Any, target: Any, path: Any, chance: Enumeration) -> Any:
        """The refused token's successor is drawn from the target, not from the residual."""
        p, q, token = target(0), draft.law(()), tree[0][0]
        if chance.accept(1, min(Fraction(1), p[token] / q[token])):
            return [1], chance.pick(4, 1, target(1))
        return [], chance.pick(3, 0, p)

    rules = {
        "block that stops at the first failure": (
            lambda t, p, path, c: reference.block(t, p, laws(path), c, stop_early=True),
            drawn((1, 1, 1)),
        ),
        "distinct siblings verified as independent": (
            lambda t, p, path, c: reference.recursive(t, p, laws(path), c, distinct=False),
            drawn((2,)),
        ),
        "an unlikely draft token dropped after it was drawn": (
            lambda t, p, path, c: reference.chain(t, p, laws(path), c),
            dropping,
        ),
        "siblings pruned by their probability": (
            lambda t, p, path, c: reference.recursive(t, p, laws(path), c, distinct=True),
            pruned,
        ),
        "the softmax as the law of an argmax": (
            lambda t, p, path, c: reference.chain(t, p, laws(path), c),
            argmax,
        ),
        "no residual": (reused, drawn((1,))),
    }
    rule, draw = rules[name]
    return law_of(rule, target, 2, draw)


@pytest.mark.parametrize(
    "name",
    [
        "block that stops at the first failure",
        "distinct siblings verified as independent",
        "an unlikely draft token dropped after it was drawn",
        "siblings pruned by their probability",
        "the softmax as the law of an argmax",
        "no residual",
    ],
)
def test_biased_variants_are_caught(name: str) -> None:
    """The enumeration has teeth: it sees variants that were released in other systems, or that come
    to mind. The total variation is far above what rounding could explain, for one of a few models."""
    seen = max(
        distance(biased(name, target, Model(3, seed + 100, hb.Warp())), joint(target, 2))
        for seed in range(6)
        for target in [Model(3, seed, hb.Warp())]
    )
    assert seen > 0.01
