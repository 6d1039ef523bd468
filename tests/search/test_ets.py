"""ETS: its choice of leaves against trying all, against an integer programme, and its searches."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix

from hornbeam import search
from hornbeam.errors import ArgumentError, ShapeError
from tests.reference import search as reference

Case = tuple[list[int], list[float], list[int | None], list[float]]


def random_tree(draw: random.Random, leaves: int, levels: int, labels: int) -> Case:
    """A tree of that many leaves at one depth, its costs those of pages, its shares as REBASE's."""
    parents, level = [0], [0]
    for depth in range(levels):
        count = leaves if depth == levels - 1 else max(1, int(leaves * draw.uniform(0.2, 0.9)))
        parents += sorted(draw.choice(level) for _ in range(count))
        level = list(range(len(parents) - count, len(parents)))
    costs = [draw.randint(1, 5) for _ in parents]
    gains = [-cost / sum(costs) for cost in costs]
    shares = reference.rebase_shares([draw.random() for _ in level], leaves, 0.2)
    clusters: list[int | None] = [None] * len(parents)
    for leaf, share in zip(level, shares, strict=True):
        gains[leaf] += share / sum(shares)
        clusters[leaf] = draw.randrange(labels)
    return parents, gains, clusters, [1.5 / labels] * labels


def by_programme(case: Case) -> float:
    """The optimum of the integer programme, by HiGHS."""
    parents, gains, clusters, bonuses = case
    n, entries, row = len(parents), [], 0
    for node in range(1, n):  # a node brings in its parent
        entries += [(row, parents[node], 1), (row, node, -1)]
        row += 1
    for cluster in range(len(bonuses)):
        entries.append((row, n + cluster, -1))
        entries += [(row, leaf, 1) for leaf in range(n) if clusters[leaf] == cluster]
        row += 1
    inner = set(parents[1:])
    entries += [(row, leaf, 1) for leaf in range(n) if leaf not in inner]
    rows, columns, factors = zip(*entries, strict=True)
    matrix = coo_matrix((factors, (rows, columns)), shape=(row + 1, n + len(bonuses)))
    found = milp(
        -np.array([*gains, *bonuses]),
        constraints=LinearConstraint(matrix.tocsr(), [0] * row + [1], np.inf),
        integrality=np.ones(n + len(bonuses)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    return float(-found.fun)


@pytest.mark.parametrize(
    ("leaves", "levels", "labels", "count"), [(8, 2, 4, 40), (24, 4, 7, 20), (64, 3, 16, 12), (64, 5, 40, 8)]
)
def test_the_optimum_is_that_of_an_integer_programme(
    leaves: int, levels: int, labels: int, count: int
) -> None:
    for seed in range(count):
        # Inner nodes of no leaf are never worth their cost, for either.
        parents, gains, clusters, bonuses = random_tree(
            random.Random(f"{seed} {leaves} {labels}"), leaves, levels, labels
        )
        inner = set(parents[1:])
        childless = [node for node in range(len(parents) - leaves) if node not in inner]
        for node in childless:
            gains[node] = -9.0
        case = parents, gains, clusters, bonuses
        worth, chosen = search.best_subtree(*case)
        assert worth == pytest.approx(by_programme(case), abs=1e-9)
        found = sum(gain for gain, is_in in zip(gains, chosen, strict=True) if is_in)
        covered = {cluster for cluster, is_in in zip(clusters, chosen, strict=True) if is_in} - {None}
        assert worth == pytest.approx(
            found + sum(bonuses[cluster] for cluster in covered if cluster is not None)
        )
        assert all(chosen[parents[node]] for node in range(len(parents)) if chosen[node])


def test_256_unrelated_leaves_are_decided() -> None:
    """Clusters that tie all parts of the tree together, and many equal shares."""
    for seed, labels in [(1, 40), (2, 100), (3, 200)]:
        case = random_tree(random.Random(seed), 256, 4, labels)
        worth, chosen = search.best_subtree(*case)
        assert worth > 0
        assert any(chosen)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    weights=st.sampled_from([(1, 1.5), (1, 0), (0, 1), (2, 0.5)]),
    words=st.integers(1, 4),
)
def test_kept_leaves_are_the_best_of_all(
    width: int, seed: int, weights: tuple[float, float], words: int
) -> None:
    """Rounds of a search: what gets children is a best set of leaves, shared out as REBASE does."""
    policy = search.Ets(width=width, cost_weight=weights[0], coverage_weight=weights[1], max_depth=3)
    work = policy.open(0)
    draw = random.Random(seed)
    parents, values, costs, labels = [0], {0: 1.0}, [1], {0: -1}
    leaves: list[int] = []
    while asked := work.ask():
        if leaves:
            exact = Fraction(weights[0]), Fraction(weights[1])
            ancestry = sorted({at for leaf in leaves for at in lineage(parents, leaf)})
            place = {node: index for index, node in enumerate(ancestry)}
            _, best = reference.ets_leaves(
                [values[leaf] for leaf in leaves],
                [place[parents[node]] for node in ancestry],
                [place[leaf] for leaf in leaves],
                [labels[leaf] for leaf in leaves],
                [costs[node] for node in ancestry],
                width,
                0.2,
                exact,
            )
            got = {one.leaf: one.children for one in asked}
            fits = []
            for chosen in best:
                kept = [ancestry[index] for index in chosen]
                shares = reference.rebase_shares([values[leaf] for leaf in kept], width, 0.2)
                fits.append({leaf: share for leaf, share in zip(kept, shares, strict=True) if share})
            assert got in fits
        leaves = []
        for one in asked:
            nodes = range(one.first_child, one.first_child + one.children)
            told, steps, price = [], [], []
            for node in nodes:
                parents.append(one.leaf)
                word, cost = draw.randrange(words), draw.randint(1, 3)
                values[node], labels[node] = draw.choice([0.25, 0.5, draw.random()]), word
                costs.append(cost)
                told.append(values[node])
                steps.append([word] * 3)
                price.append(cost)
                leaves.append(node)
            work.tell(one.trial, told, [False] * one.children, costs=price, steps=steps)


def lineage(parents: list[int], node: int) -> list[int]:
    found = [node]
    while found[-1]:
        found.append(parents[found[-1]])
    return found


def test_without_weights_it_is_rebase() -> None:
    """No cost and nothing to cover: all leaves are as good, and those with children are REBASE's."""
    values = [0.1, 0.9, 0.5, 0.7]
    found = []
    for policy in (search.Ets(width=4, cost_weight=0, coverage_weight=0), search.Rebase(width=4)):
        work = policy.open(0)
        [one] = work.ask()
        work.tell(one.trial, values, [False] * 4)
        found.append({child.leaf: child.children for child in work.ask()})
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"balance": 0}, "balance is 0, expected a positive number"),
        ({"cost_weight": -1}, "cost_weight is -1"),
        ({"coverage_weight": float("nan")}, "coverage_weight is nan"),
        ({"cost": "tokens"}, "cost is 'tokens', expected 'nodes' or 'bytes'"),
        ({"clusters": "words"}, "clusters is 'words', expected 'ngrams' or a callable"),
        ({"distance": 3}, "distance is 3, expected a number from 0 to 2"),
    ],
)
def test_wrong_settings(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        search.Ets(**given_)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (([0, 1], [0, 1], [None, None], []), "parents"),
        (([0, 0], [0], [None, None], []), "gains"),
        (([0, 0], [0, 1], [None, 1], [1.0]), "clusters"),
        (([0, 0], [0, 1], [0, None], [1.0]), "clusters"),
        (([0, 0], [0, 1], [None, 0], [-1.0]), "bonuses"),
        (([0, 0], [1, 1], [None, 0], [1.0]), "gains"),
        (([0, 0], [0, float("nan")], [None, 0], [1.0]), "finite"),
        (([], [], [], []), "parents"),
    ],
)
def test_wrong_trees(case: Any, message: str) -> None:
    with pytest.raises((ArgumentError, ShapeError), match=message):
        search.best_subtree(*case)
