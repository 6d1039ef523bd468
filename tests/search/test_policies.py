"""Policies against their references, alone: asked and told, without a model."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbeam import search
from hornbeam.errors import ArgumentError
from tests.reference import search as reference


def teller(seed: int, ends: float, levels: int = 0) -> reference.Tell:
    """Random values from 0 to 1, some of few levels so that there are ties."""

    def tell(node: int) -> tuple[float, bool]:
        draw = random.Random(f"{seed} {node}")
        value = draw.random()
        return (round(value * levels) / levels if levels else value), draw.random() < ends

    return tell


def asked_by(policy: search.Policy, tell: reference.Tell, shuffle: int = 0) -> list[list[tuple[int, int]]]:
    """The (leaf, children) of each ask; answers come in any order."""
    work = policy.open(seed=3)
    found = []
    while asked := work.ask():
        found.append([(one.leaf, one.children) for one in asked])
        random.Random(shuffle).shuffle(asked)
        for one in asked:
            told = [tell(node) for node in range(one.first_child, one.first_child + one.children)]
            work.tell(one.trial, [value for value, _ in told], [ended for _, ended in told])
            assert work.ask() == [] or one is asked[-1] or work.is_over
    assert work.is_over
    assert not any(work.live())
    return found


ENDS = st.sampled_from([0.0, 0.1, 0.4, 1.0])


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 20),
    depth=st.integers(1, 6),
    children=st.integers(1, 6),
    ends=ENDS,
    seed=st.integers(0, 10**6),
    levels=st.sampled_from([0, 3]),
)
def test_policies_in_rounds(
    width: int, depth: int, children: int, ends: float, seed: int, levels: int
) -> None:
    tell = teller(seed, ends, levels)
    pairs: list[tuple[search.Policy, Any]] = [
        (search.Rebase(width=width, max_depth=depth), reference.rebase(width, depth, 0.2, tell)),
        (
            search.StepBeam(width=width, children=children, max_depth=depth),
            reference.step_beam(width, depth, children, tell),
        ),
        (
            search.DVTS(width=width, children=children, max_depth=depth),
            reference.dvts(width, depth, children, tell),
        ),
    ]
    for policy, want in pairs:
        work = policy.open(0)
        found = []
        while asked := work.ask():
            found.append([(one.leaf, one.children) for one in asked])
            random.Random(seed).shuffle(asked)
            for one in asked:
                told = [tell(node) for node in range(one.first_child, one.first_child + one.children)]
                for _ in range(2):  # told again it does nothing
                    work.tell(one.trial, [value for value, _ in told], [ended for _, ended in told])
        assert found == want, policy


@settings(max_examples=150, deadline=None)
@given(
    children=st.integers(1, 5),
    depth=st.integers(1, 4),
    cost=st.sampled_from(["nothing", "doubt", "falls"]),
    answers=st.integers(1, 3),
    ends=ENDS,
    seed=st.integers(0, 10**6),
    levels=st.sampled_from([0, 2]),
)
def test_a_star_takes_leaves_in_order(
    children: int, depth: int, cost: Any, answers: int, ends: float, seed: int, levels: int
) -> None:
    tell = teller(seed, ends, levels)
    policy = search.AStar(children=children, cost=cost, answers=answers, max_depth=depth)
    work = policy.open(0)
    found = []
    while len(found) < 60 and (asked := work.ask()):
        [one] = asked
        found.append((one.leaf, one.children))
        told = [tell(node) for node in range(one.first_child, one.first_child + one.children)]
        work.tell(one.trial, [value for value, _ in told], [ended for _, ended in told])
    assert found == reference.a_star(children, depth, cost, answers, tell)[:60]


def test_best_of_n_goes_on_with_what_is_left() -> None:
    ends = {3: True, 7: True}
    work = search.BestOfN(n=4, max_depth=3).open(0)
    counts = []
    while asked := work.ask():
        counts.append([(one.leaf, one.children) for one in asked])
        for one in asked:
            nodes = range(one.first_child, one.first_child + one.children)
            work.tell(one.trial, [0.5] * one.children, [ends.get(node, False) for node in nodes])
    assert counts == [[(0, 4)], [(1, 1), (2, 1), (4, 1)], [(5, 1), (6, 1)]]


def test_particles_are_drawn_by_the_softmax_of_logits() -> None:
    """Over many seeds the children of each leaf are as many as its share says (chi-square)."""
    values, width, seeds = [0.2, 0.5, 0.9], 3, 4000
    logits = [math.log(value / (1 - value)) for value in values]
    total = sum(math.exp(logit) for logit in logits)
    counts: Counter[int] = Counter()
    for seed in range(seeds):
        work = search.ParticleFilter(width=width).open(seed)
        [one] = work.ask()
        work.tell(one.trial, values, [False] * 3)
        for child in work.ask():
            counts[child.leaf] += child.children
    assert sum(counts.values()) == width * seeds
    chi = 0.0
    for leaf, logit in enumerate(logits, start=1):
        want = width * seeds * math.exp(logit) / total
        chi += (counts[leaf] - want) ** 2 / want
    assert chi < 13.8  # 0.999 of chi-square with 2 degrees of freedom


def test_particles_that_ended_stay_in_the_pool() -> None:
    """One of great value takes nearly all draws, and ends the search once it has them all."""
    work = search.ParticleFilter(width=8, max_depth=50).open(1)
    [one] = work.ask()
    work.tell(one.trial, [0.999999] + [0.001] * 7, [True] + [False] * 7)
    assert sum(child.children for child in work.ask()) == 0
    assert work.is_over


def test_most_limits_a_round() -> None:
    for policy in (
        search.Rebase(width=8),
        search.StepBeam(width=8),
        search.DVTS(width=8),
        search.BestOfN(n=8),
    ):
        work = policy.open(0)
        [one] = work.ask(5)
        assert one.children == 5
        work.tell(one.trial, [0.5] * 5, [False] * 5)
        assert 0 < sum(child.children for child in work.ask(3)) <= 3
    assert search.AStar(children=4).open(0).ask(2)[0].children == 2
    assert search.Rebase().open(0).ask(0) == []


def test_what_is_told_wrongly_is_refused() -> None:
    work = search.Rebase(width=2).open(0)
    [one] = work.ask()
    with pytest.raises(ArgumentError, match="trial is 5, expected one of the 1 that were asked"):
        work.tell(5, [0.0, 0.0], [False, False])
    with pytest.raises(ArgumentError, match="outcomes is 1, expected one a child, 2"):
        work.tell(one.trial, [0.0], [False])
    with pytest.raises(ArgumentError, match="a value is NaN, expected a finite number"):
        work.tell(one.trial, [0.0, math.nan], [False, False])
    work.tell(one.trial, [0.25, 0.5], [False, True])
    with pytest.raises(ArgumentError, match=r"a value is 0.75, expected 0.25 as it was told before"):
        work.tell(one.trial, [0.75, 0.5], [False, True])
    unit = search.AStar(children=1).open(0)
    with pytest.raises(ArgumentError, match=r"a value is 1\.5, expected a number from 0 to 1"):
        unit.tell(unit.ask()[0].trial, [1.5], [False])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: search.Rebase(width=0).open(0), "width is 0, expected 1 or more"),
        (lambda: search.Rebase(balance=0.0).open(0), "balance is 0.0, expected a positive number"),
        (lambda: search.StepBeam(children=2.5).open(0), "children is 2.5, expected a whole number"),  # type: ignore[arg-type]
        (lambda: search.BestOfN(n=4, max_depth=0), "max_depth is 0, expected 1 or more"),
        (lambda: search.AStar(cost="luck").open(0), 'cost is "luck", expected nothing, doubt or falls'),  # type: ignore[arg-type]
    ],
)
def test_settings_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()
