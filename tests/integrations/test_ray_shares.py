"""The budget over many prompts, and who works on what, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.errors import ArgumentError, StateError
from hornbeam.integrations.ray import Pool
from hornbeam.integrations.ray.coordinator import Coordinator, Told
from hornbeam.integrations.ray.given import Given, lengths, numbered
from hornbeam.integrations.ray.queue import Waiting
from hornbeam.integrations.ray.shares import Shares, Terms


def filled(costs: list[int], budget: int) -> list[int]:
    """What each gets when the tokens of a budget are dealt out one by one, in turn, to whoever wants more."""
    got = [0] * len(costs)
    while budget and got != costs:
        for item, cost in enumerate(costs):
            if got[item] < cost and budget:
                got[item] += 1
                budget -= 1
    return got


@settings(max_examples=60, deadline=None)
@given(
    costs=st.lists(st.integers(0, 12), min_size=1, max_size=7),
    budget=st.integers(0, 60),
    order=st.randoms(use_true_random=False),
    in_rounds=st.booleans(),
)
def test_shares_are_those_of_dealing_out_in_turn(
    costs: list[int], budget: int, order: Any, in_rounds: bool
) -> None:
    shares = Shares(Terms(hb.Budget(tokens=budget), ("tokens",), in_rounds), len(costs))
    left, got = list(range(len(costs))), [0] * len(costs)
    before = dict.fromkeys(left, 0)
    while left:
        order.shuffle(left)
        ended = []
        for item in list(left):
            share = shares.grant(item)["tokens"]
            assert share >= before[item], "a share has fallen"
            before[item] = share
            got[item] = min(costs[item], share)
            if costs[item] <= share:
                shares.done(item, {"tokens": costs[item]})
                ended.append(item)
                left.remove(item)
        if not ended and not (in_rounds and shares.advance()):
            break
        if in_rounds and ended and left:
            shares.advance()
    for item in left:
        shares.done(item, {"tokens": got[item]})
    wanted = filled(costs, budget)
    # Dealing out in turn gives the last few to the first of those that still want some, as shares do.
    assert got == wanted
    assert shares.ledger.tokens == sum(wanted)
    assert shares.ledger.left("tokens") == budget - sum(wanted), "something is still reserved"


def test_what_shares_refuse() -> None:
    for budget in (
        hb.Budget(seconds=1),
        hb.Budget(forwards=1),
        hb.Budget(kv_bytes=1),
        hb.Budget(verifier_calls=1),
    ):
        with pytest.raises(ArgumentError, match="expected tokens alone"):
            Terms(budget, ("tokens",))


def test_the_longest_waits_first_and_at_home() -> None:
    waiting = Waiting([1.0, 3.0, 2.0, 3.0])
    assert [waiting.take("a") for _ in range(2)] == [1, 3]
    waiting.add(1, home="b")
    assert waiting.take("a") == 2, "others leave what has a home to it"
    assert waiting.take("b") == 1
    waiting.add(1, home="b")
    assert [waiting.take("a") for _ in range(3)] == [0, 1, None], "but for when they have nothing else"
    waiting.add(3, home="b")
    waiting.add(2)
    waiting.drop(2)
    waiting.leave("b")
    assert len(waiting) == 1
    assert [waiting.take("a") for _ in range(2)] == [3, None]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def coordinator(count: int, tokens: int | None = None, **options: Any) -> Coordinator:
    return Coordinator(
        [f"job {item}" for item in range(count)],
        [float(count - item) for item in range(count)],
        Terms(hb.Budget(tokens=tokens), ("tokens",)),
        **{"workers": 2} | options,
    )


def test_workers_get_equal_parts_and_a_dead_one_loses_all() -> None:
    clock = Clock()
    desk = coordinator(6, clock=clock, patience=10.0)
    desk.join("a", "1")
    assert list(desk.exchange("a", "1", Told(room=9)).new) == [0, 1, 2], "half of them"
    assert list(desk.exchange("b", "1", Told(room=2)).new) == [3, 4], "as it has room for"
    told = Told({0: ("zero", {"tokens": 5})}, written={1: 3, 2: 4}, room=0, running=2)
    assert set(desk.exchange("a", "1", told).shares) == {1, 2}
    desk.join("a", "2")  # it died, and begins anew
    progress = desk.progress()
    assert (progress.answered, progress.tokens, progress.lost_tries, progress.lost_tokens) == (1, 5, 2, 7)
    # What it told when it was taken for dead is welcome; what was told already is not counted again.
    late = Told({0: ("ZERO", {"tokens": 9}), 1: ("one", {"tokens": 2})})
    assert desk.exchange("a", "1", late).is_over, "another has its place"
    assert desk.progress().tokens == 7
    assert list(desk.exchange("a", "2", Told(room=9)).new) == [2, 5]
    clock.now = 11.0
    assert list(desk.exchange("b", "1", Told(room=1, running=1)).new) == [2], "a has been silent for too long"
    orders = desk.exchange("a", "2", Told(room=9))
    assert not orders.is_over
    assert not orders.shares or 2 not in orders.shares, "a has lost what it held"
    rest = {item: (str(item), {"tokens": 1}) for item in (2, 3, 4, 5)}
    assert desk.exchange("b", "1", Told(rest)).is_over
    assert desk.answers(0, 9) == ["zero", "one", "2", "3", "4", "5"]
    assert desk.progress().tokens == 11


def test_a_prompt_that_kills_its_workers_ends_the_call() -> None:
    desk = coordinator(1, tries=2)
    for life in "123":
        desk.join("a", life)
        desk.exchange("a", life, Told(room=1))
    assert desk.is_over
    assert isinstance(desk.error(), StateError)
    assert "2 workers have died with prompt 0" in str(desk.error())


def test_prompts_at_their_share_are_answered_when_no_share_can_rise() -> None:
    desk = coordinator(3, tokens=7, workers=1)
    orders = desk.exchange("a", "1", Told(room=9))
    assert {item: share["tokens"] for item, share in orders.shares.items()} == {0: 3, 1: 2, 2: 2}
    orders = desk.exchange("a", "1", Told(written={0: 3, 1: 2, 2: 1}, running=1))
    assert not orders.is_last, "one has not come to its share"
    orders = desk.exchange("a", "1", Told({2: ("short", {"tokens": 1})}, written={0: 3, 1: 2}))
    assert {item: share["tokens"] for item, share in orders.shares.items()} == {0: 3, 1: 3}
    orders = desk.exchange("a", "1", Told(written={0: 3, 1: 3}))
    assert orders.is_last


def test_a_pool_knows_what_a_cluster_has_room_for() -> None:
    there = {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}
    assert Pool().size(99, there) == 8
    assert Pool(num_cpus=3).size(99, there) == 2
    assert Pool(num_gpus=0.5).size(99, there) == 4
    assert Pool(5).size(3, there) == 3, "no more than prompts"
    with pytest.raises(ArgumentError, match="workers is 9, expected at most 8"):
        Pool(9).size(99, there)
    with pytest.raises(ArgumentError, match="expected at most 0"):
        Pool(resources={"tpu": 1.0}).size(99, there)
    for wrong in ({"workers": 0}, {"num_cpus": 0}, {"num_gpus": -1}, {"tries": 0}, {"patience": 0.0}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            Pool(**wrong)  # type: ignore[arg-type]


def test_what_is_given() -> None:
    assert Given(["a", [1, 2]], {"prompt": "prompt"}).columns == {"prompt": ["a", [1, 2]]}
    for wrong, match in (
        ("text", "is a str"),
        ([1, 2], "holds 1 at 0"),
        ([{"role": "user"}], "at 0"),
        (None, "NoneType"),
    ):
        with pytest.raises(ArgumentError, match=match):
            Given(wrong, {"prompt": "prompt"})
    with pytest.raises(ArgumentError, match="continuations has 1 lists, expected one a prompt, 2"):
        Given(["a", "b"], {}, continuations=[["c"]])
    chat = [{"role": "user", "content": "x" * 8}]
    jobs = numbered(["a", [1, 2], "a", chat, chat])
    assert [job.number for job in jobs] == [0, 0, 1, 0, 1]
    assert lengths(jobs, None) == [0.25, 2.0, 0.25, 2.0, 2.0]
    assert lengths(jobs, len) == [1.0, 2.0, 1.0, 1.0, 1.0]
