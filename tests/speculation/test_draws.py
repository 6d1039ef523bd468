"""Draws of draft trees: against the reference, token by token, and as laws."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from math import exp, prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import hornbeam as hb
from hornbeam import _native
from hornbeam.errors import ArgumentError, LogitsError
from hornbeam.speculation import CostCurve, shape
from hornbeam.speculation.acceptance import AcceptanceByRank
from hornbeam.speculation.protocols import Ask, Outcome, Run
from hornbeam.speculation.shape.sequoia import best_trees
from hornbeam.speculation.shape.stochastic_beam import conditioned
from hornbeam.speculation.tree_building import TreeBuilder
from tests.ops.test_warp import leaves_a_token, warps
from tests.ops.verifying import chi_square
from tests.reference import draws as reference
from tests.reference import warp as reference_warp
from tests.reference.verify import outcomes

NOISES = ["nothing", "shared", "own", "independent"]


def draw(
    logits: Any, noise: str, count: Any, *, warp: hb.Warp | None = None, seed: int = 0, **keys: Any
) -> Any:
    rows = logits.shape[0]
    given = {name: keys.get(name, [0] * rows) for name in ("sequences", "positions", "nodes")}
    counts = [count] * rows if isinstance(count, int) else count
    handle = (warp or hb.Warp())._handle  # type: ignore[attr-defined]
    return _native.draw(logits, noise, [handle], seed, *given.values(), counts, keys.get("histories"), None)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 90).flatmap(lambda size: st.tuples(st.just(size), warps(size))).filter(leaves_a_token),
    st.sampled_from(NOISES),
    st.integers(0, 2**64 - 1),
    st.integers(0, 6),
    st.integers(0, 2**24 - 1),
    st.randoms(use_true_random=False),
)
def test_draws_are_those_of_the_reference(
    case: tuple[int, hb.Warp], noise: str, seed: int, count: int, node: int, random: Any
) -> None:
    size, warp = case
    rng = np.random.default_rng(random.getrandbits(32))
    logits = rng.normal(0, 2, (2, size)).astype(np.float32)
    logits[1, rng.integers(size)] = 9.0
    history = ([0], [size - 1])
    drawn = draw(
        torch.tensor(logits),
        noise,
        [count, 2],
        warp=warp,
        seed=seed,
        sequences=[3, 4],
        positions=[7, 8],
        nodes=[node, 1],
        histories=[history, history],
    )
    for row, (got, wanted) in enumerate(zip(drawn, (count, 2), strict=True)):
        law = reference_warp.law(logits[row], warp, *history)
        keys = (seed, (3, 4)[row], (7, 8)[row], (node, 1)[row])
        expected = reference.draw(law, noise, *keys, wanted)
        assert [token for token, *_ in got] == [token for token, *_ in expected]
        for ours, theirs in zip(got, expected, strict=True):
            assert ours[1:] == pytest.approx(theirs[1:], rel=1e-9, abs=1e-9)


def test_shared_noise_is_that_of_sampling() -> None:
    logits = torch.randn(50, 300)
    keys = dict(sequences=[5] * 50, positions=list(range(50)))
    warp = hb.Warp(temperature=0.9, top_p=0.95)
    got = [children[0][0] for children in draw(logits, "shared", 3, warp=warp, seed=2, **keys)]
    sampled = hb.ops.sample(logits, warp, seed=2, sequences=torch.full((50,), 5), positions=torch.arange(50))
    assert got == sampled.tolist()


@pytest.mark.parametrize("noise", ["own", "independent"])
def test_a_large_vocabulary(noise: str) -> None:
    """The first draw of V = 32,768 follows the law: 10^6 independent draws, 20,000 races."""
    torch.manual_seed(0)
    logits = torch.randn(1, 32_768) * 2
    law = torch.softmax(logits[0].double(), 0).numpy()
    count = 1_000_000 if noise == "independent" else 20_000
    if noise == "independent":
        tokens = [token for token, *_ in draw(logits, noise, count)[0]]
    else:
        rows = logits.expand(count, -1)
        drawn = draw(rows, noise, 1, positions=list(range(count)), nodes=[3] * count)
        tokens = [token for ((token, *_),) in drawn]
    observed = np.bincount(tokens, minlength=law.size)
    assert chi_square(observed, law / law.sum(), count) > 1e-4


def test_distinct_children_follow_drawing_without_replacement() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 0.5]])
    q = torch.softmax(logits[0].double(), 0).tolist()
    count = 20_000
    drawn = draw(logits.expand(count, -1), "own", 2, positions=list(range(count)))
    seen = Counter(tuple(token for token, *_ in children) for children in drawn)
    pairs = list(permutations(range(4), 2))
    law = [q[a] * q[b] / (1 - q[a]) for a, b in pairs]
    assert stats.chisquare([seen[pair] for pair in pairs], np.array(law) * count).pvalue > 1e-4


def test_draws_depend_on_their_keys_alone() -> None:
    logits = torch.randn(64, 500)
    keys = dict(sequences=list(range(64)), positions=list(range(64)), nodes=[i % 3 for i in range(64)])
    together = draw(logits, "own", 3, seed=1, **keys)
    for row in (0, 7, 63):
        own = {name: values[row : row + 1] for name, values in keys.items()}
        assert draw(logits[row : row + 1], "own", 3, seed=1, **own) == together[row : row + 1]
    others = [
        draw(logits, "own", 3, seed=2, **keys),
        *(draw(logits, "own", 3, seed=1, **(keys | {name: [9] * 64})) for name in keys),
    ]
    assert all(other != together for other in others)


def test_refusals() -> None:
    logits = torch.zeros(1, 4)
    with pytest.raises(ArgumentError, match='noise is "loud"'):
        draw(logits, "loud", 1)
    with pytest.raises(LogitsError, match="NaN"):
        draw(logits * float("nan"), "own", 1)
    with pytest.raises(ArgumentError, match="history"):
        draw(logits, "own", 1, warp=hb.Warp(presence_penalty=1.0))
    with pytest.raises(ArgumentError, match="a node is 16777216"):
        draw(logits, "own", 1, nodes=[1 << 24])


class Tables:
    """A draft whose law after each path is a table."""

    def __init__(self, size: int, depth: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.size = size
        self.logits: dict[tuple[int, ...], Any] = {}
        level: list[tuple[int, ...]] = [()]
        for _ in range(depth):
            for path in level:
                self.logits[path] = torch.tensor(rng.normal(0, 1, size), dtype=torch.float32)
            level = [(*path, token) for path in level for token in range(size)]

    def law(self, path: tuple[int, ...]) -> list[float]:
        return torch.softmax(self.logits[path].double(), 0).tolist()

    def grow(
        self, grows: Any, count: int, rule: str = "without_replacement", gate: Any = None
    ) -> TreeBuilder:
        asks = [Ask(i, i, 0, 5, 9) for i in range(count)]
        builder: TreeBuilder

        def expand(nodes: Any) -> Any:
            paths = [tuple(builder.trees[node.tree].path(node.token)) for node in nodes]
            return torch.stack([self.logits[path] for path in paths])

        run = Run(None, hb.Warp(), 11, rule, gate=gate)  # type: ignore[arg-type]
        builder = TreeBuilder(run, asks, expand, grows.law)
        grows.grow(builder)
        return builder


@pytest.mark.parametrize(("size", "width", "depth"), [(3, 2, 2), (4, 2, 2), (3, 3, 2)])
def test_a_stochastic_beam_follows_its_definition(size: int, width: int, depth: int) -> None:
    """The trees of 6,000 beams, siblings in their order, against the enumerated law of the reference.

    A beam whose children keep their unconditioned values draws trees that the definition never does.
    """
    tables, count = Tables(size, depth), 6_000
    law: Counter[Any] = Counter()
    for probability, (tree, _) in outcomes(lambda chance: reference.beam(chance, tables.law, width, depth)):
        law[tuple(tree)] += probability
    assert sum(law.values()) == pytest.approx(1)
    builder = tables.grow(shape.StochasticBeam(width, depth), count)
    seen = Counter(tuple(zip(t.tokens, t.parents, strict=True)) for t in builder.trees)
    assert set(seen) <= set(law)
    trees = list(law)
    assert chi_square([seen[t] for t in trees], [law[t] for t in trees], count) > 1e-4


def test_conditioned_values() -> None:
    """The greatest becomes the parent's, the order stays, and far values do not overflow."""
    for parent in (-3.0, 0.0, 40.0):
        values = [2.0, 1.9999999, 1.0, -5.0, -800.0]
        got = [conditioned(value, 2.0, parent) for value in values]
        assert got[0] == parent
        assert got == sorted(got, reverse=True)
        assert all(np.isfinite(got))
        direct = -np.log(exp(-parent) - exp(-2.0) + exp(-1.0)) if parent < 2 else got[2]
        assert got[2] == pytest.approx(direct)


def test_best_first_is_the_best_of_all_scored() -> None:
    """Against trying: the paths drafted are the likeliest of those scored, closed under parents."""
    tables = Tables(5, 3)
    (tree,) = tables.grow(shape.BestFirst(size=7, width=5, depth=2), 1).trees
    every = {
        path: prod(tables.law(path[:i])[token] for i, token in enumerate(path))
        for depth in (1, 2)
        for path in [(a,) for a in range(5)] + [(a, b) for a in range(5) for b in range(5)]
        if len(path) == depth
    }
    best = sorted(every, key=lambda path: -every[path])[:7]
    assert {tuple(tree.path(token)) for token in range(7)} == set(best)
    assert all(parent < token for token, parent in enumerate(tree.parents))


def brute_force(acceptance: Any, size: int, depth: int) -> float:
    """Expected accepted tokens of the best tree, by trying every split."""
    if depth == 0 or size == 0:
        return 0.0

    def siblings(rank: int, left: int) -> float:
        if rank == len(acceptance) or left == 0:
            return 0.0
        return max(
            0.0,
            *(
                acceptance[rank] * (1 + brute_force(acceptance, own - 1, depth - 1))
                + siblings(rank + 1, left - own)
                for own in range(1, left + 1)
            ),
        )

    return siblings(0, size)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=3), st.integers(1, 7), st.integers(1, 3))
def test_sequoia_is_optimal(weights: list[float], size: int, depth: int) -> None:
    acceptance = [weight / max(sum(weights), 1) for weight in weights]
    table = best_trees(acceptance, size, depth)
    for n in range(size + 1):
        assert table.expected[depth][n] == pytest.approx(brute_force(acceptance, n, depth))
        parents = table.parents(n, depth)
        reached, ranks = [], Counter()  # type: ignore[var-annotated]
        for parent in parents:
            above = reached[parent] if parent >= 0 else 1.0
            reached.append(above * acceptance[ranks[parent]])
            ranks[parent] += 1
        assert len(parents) <= n
        assert sum(reached) == pytest.approx(table.expected[depth][n])


def test_sequoia_takes_the_size_that_pays() -> None:
    def outline(points: list[tuple[int, float]], level: float) -> list[int]:
        cost = CostCurve()
        for rows, seconds in points:
            for _ in range(3):
                cost.observe(rows, seconds)
        record = AcceptanceByRank(cost)
        record.observe_level(level)
        return shape.Sequoia(12, 4, 3, acceptance=(0.6, 0.2, 0.1)).outline(record, 9)

    flat = outline([(1, 1.0), (64, 1.0)], 1e-6)
    assert len(flat) == 12
    assert outline([(1, 1.0), (2, 50.0), (64, 90.0)], 1e-6) == []
    assert len(outline([(1, 1.0), (4, 1.0), (5, 40.0), (64, 90.0)], 1e-6)) == 3
    # A draft pass as dear as the target's own: no more than one level.
    assert set(outline([(1, 1.0), (64, 1.0)], 1.0)) <= {-1}


def test_acceptance_by_rank_is_learned() -> None:
    record = AcceptanceByRank()
    before = record.acceptance(3)
    assert before == sorted(before, reverse=True)
    outcome = Outcome(0, [5, 1, 2, 3], [0, 2], False, 0, parents=[-1, 0, 0, 2])
    for _ in range(300):
        record.observe(outcome)
    after = record.acceptance(3)
    # The pending row's second child is taken, and that one's only child refused: rank 0 is never right.
    assert after[0] < 0.02
    assert after[1] > 0.9
    assert sum(after) <= 1
