"""Merged drafts: one tree, the text of the target, and no source that costs more than it brings."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.speculation import Ask, Outcome, Run, Signals, Union
from hornbeam.speculation.draft.payoff import EXPLORATION, PRIOR_ASKS, Payoff
from tests import models
from tests.drafts import Foresight, Proposed


@dataclass
class Says:
    """Proposes the same every time, and takes its time."""

    tokens: list[int]
    parents: list[int] | None = None
    confidences: list[float] | None = None
    seconds: float = 0.0
    layers: tuple[int, ...] = ()
    seen: list = field(default_factory=list, repr=False)
    law: str = "deterministic"

    def open(self, run):
        return self

    @property
    def hidden_layers(self):
        return self.layers

    def start(self, index, prompt_ids):
        self.seen.append(list(prompt_ids))

    def propose(self, asks):
        time.sleep(self.seconds)
        self.seen.append(len(asks))
        signals = Signals(self.confidences or [0.5] * len(self.tokens))
        return [Proposed(self.tokens, signals, self.parents) for _ in asks]

    def observe(self, outcomes):
        self.seen.append([None if o.hidden is None else tuple(o.hidden.shape) for o in outcomes])

    def finish(self, index):
        self.seen.append("finished")


def run(plain_seconds=0.01):
    curve = hb.spec.CostCurve()
    curve.observe(1, plain_seconds)
    runner = SimpleNamespace(shape=SimpleNamespace(vocab_size=256))
    return Run(SimpleNamespace(cost_curve=curve, union_memories={}, runner=runner), hb.Warp(), 0, "coupled")


def ask(output=(5,), position=4, max_tokens=9):
    return Ask(0, 0, output[-1], position, max_tokens, (1, 2, 3), list(output))


def paths(proposal):
    found = []
    for token, parent in zip(proposal.tokens, proposal.parents, strict=True):
        found.append((*(found[parent] if parent >= 0 else ()), token))
    return set(found)


def test_equal_paths_become_one():
    chain = Says([7, 8, 9])
    tree = Says([7, 1, 2, 8], [-1, -1, 1, 0])
    merged = Union(chain, tree).open(run()).propose([ask()])[0]
    assert paths(merged) == {(7,), (7, 8), (7, 8, 9), (1,), (1, 2)}
    assert all(parent < node for node, parent in enumerate(merged.parents))
    assert paths(Union(chain, tree).open(run()).propose([ask(max_tokens=1)])[0]) == {(7,), (1,)}


def test_the_budget_takes_the_likeliest_paths():
    sure = Says([7, 8, 9], confidences=[0.9, 0.9, 0.9])
    unsure = Says([1, 2], confidences=[0.05, 0.9])
    assert paths(Union(unsure, sure, rows=3).open(run()).propose([ask()])[0]) == {(7,), (7, 8), (7, 8, 9)}


def test_what_comes_true_is_learned_from_tokens_that_nobody_verified():
    right, wrong = Says([7]), Says([1])
    union = Union(wrong, right, rows=1).open(run(10.0))
    output = [5]
    for _ in range(30):
        last = union.propose([ask(output, 3 + len(output))])[0]
        output.append(7)
    assert last.tokens == [7]
    assert last.signals.confidences[0] > 0.8


def outcome(tokens, kept, hidden=None):
    return Outcome(0, tokens, kept, False, 3, None, hidden, list(range(-1, len(tokens) - 1)))


def test_a_source_that_does_not_pay_is_asked_ever_more_rarely():
    useless = Says([1], seconds=0.01)
    good = Says([7])
    union = Union(good, useless).open(run(0.2))
    for _ in range(60):
        union.propose([ask()])
        union.observe([outcome([5, 7], [0, 1])])
    assert good.seen.count(1) == 60
    assert useless.seen.count(1) < 14
    saving = Says([7], seconds=0.01)
    union = Union(Says([1]), saving).open(run(0.2))
    for _ in range(30):
        union.propose([ask()])
        union.observe([outcome([5, 7], [0, 1])])
    assert saving.seen.count(1) == 30, "it costs 10 ms a step and saves 200"


def test_what_was_learned_outlasts_the_run():
    given = run(0.2)
    useless = Says([1], seconds=0.01)
    for _ in range(3):
        union = Union(useless).open(given)
        for _ in range(20):
            union.propose([ask()])
            union.observe([outcome([5], [0])])
    assert useless.seen.count(1) < 14


def test_a_single_draft_that_does_not_pay_is_not_asked():
    """Verification takes nothing of it, and its own seconds would be lost in every step."""
    lm = hb.LM(models.llama())
    prompt = models.prompt(8, 0)[0].tolist()
    slow = Says([1], seconds=0.02)
    lm.generate(prompt, draft=slow, max_new_tokens=60)
    asked = slow.seen.count(1)
    assert 2 <= asked <= PRIOR_ASKS + 4
    slow.seen.clear()
    lm.generate(prompt, draft=slow, max_new_tokens=10, length=hb.spec.Fixed(1))
    assert slow.seen.count(1) == 9, "a rule that weighs no seconds asks in every step"


def test_rows_that_a_source_adds_are_part_of_its_price():
    """It saves a token in four of ten steps, at rows that cost half a plain step: that is a loss."""
    given = run(0.1)
    for _ in range(16):
        given.target.cost_curve.observe(2, 0.15)
    source = Says([7], seconds=0.002)
    union = Union(source).open(given)
    for step in range(80):
        union.propose([ask()])
        asked = source.seen[-1] == 1
        union.observe([outcome([5, 7] if asked else [5], [0, 1] if asked and step % 10 < 4 else [0])])
    assert source.seen.count(1) < 40


def test_rows_that_the_draft_computed_are_taken_off_its_price():
    """A draft by layers of the target itself spares the verification those layers."""
    prices = []
    for credit in (0.0, 0.01):
        given = run(1.0)
        union = Union(Says([1], seconds=0.02)).open(given)
        for _ in range(4):
            union.propose([ask()])
            union.credit(credit)
            union.observe([outcome([5, 1], [0])])
        [ledger] = given.target.union_memories.values()
        prices.append(ledger.payoffs[0].seconds)
    assert prices[0] - prices[1] > 0.005


def settled(saved, seconds=1.0, asks=40):
    payoff = Payoff()
    for _ in range(3):
        payoff.book_seconds(seconds)
    for _ in range(asks):
        payoff.book_saved("kind", saved)
    return payoff


def test_exploration_stays_below_its_share():
    payoff = settled(saved=0.0)
    asked = [step for step in range(40000) if payoff.is_due("kind", 1.5)]
    lost = -payoff.gain("kind") * len(asked)
    assert 0 < lost <= EXPLORATION * 40000 * 1.5 + 1
    assert all(settled(saved=2.0).is_due("kind", 1.5) for _ in range(9))


def test_a_new_kind_of_step_begins_with_what_is_known_of_the_others():
    assert settled(saved=0.0).gain("other") < 0 < settled(saved=2.0).gain("other")
    assert Payoff().is_due("kind", 1.0)
    assert settled(saved=0.0).is_due("kind", None), "before a step was timed nothing is known"
    assert settled(saved=0.0, seconds=1e-3).is_due("kind", 1.0), "too cheap to be worth a thought"


def test_a_source_that_begins_to_pay_is_asked_again():
    payoff = settled(saved=0.0)
    steps = 0
    while payoff.gain("kind") <= 0:
        steps += 1
        assert steps < 60000
        if payoff.is_due("kind", 1.5):
            payoff.book_saved("kind", 4.0)
    assert all(payoff.is_due("kind", 1.5) for _ in range(9))


def test_one_interrupted_draft_moves_the_price_little():
    payoff = settled(saved=2.0, asks=1)
    for _ in range(14):
        payoff.book_seconds(1.0)
    payoff.book_seconds(100.0)
    assert payoff.seconds < 1.3


@dataclass
class Reads(Says):
    """Has to read before it can guess."""

    owed: float = 0.0

    def arrears(self, index):
        return self.owed


def test_reading_a_prompt_is_put_off_until_the_gains_missed_would_have_paid_for_it():
    given = run(0.1)
    source = Reads([7], seconds=0.002)
    union = Union(source).open(given)

    def step():
        union.propose([ask()])
        asked = source.seen[-1] == 1
        union.observe([outcome([5, 7], [0, 1]) if asked else outcome([5], [0])])
        return asked

    assert all(step() for _ in range(30))
    source.owed = 0.5  # some five steps' gains
    assert [step() for _ in range(12)].index(True) in range(3, 8)


def test_sources_get_the_hidden_states_that_they_want():
    first, second, none = Says([1], layers=(4, 2)), Says([1], layers=(2,)), Says([1])
    union = Union(first, second, none).open(run())
    assert union.hidden_layers == (2, 4)
    union.start(0, [1, 2, 3])
    assert first.seen[-1] == second.seen[-1] == none.seen[-1] == [1, 2, 3]
    hidden = torch.zeros(2, 2, 8)
    hidden[:, 1] = 1
    union.propose([ask()])
    union.observe([outcome([5, 1], [0], hidden)])
    assert [source.seen[-1] for source in (first, second, none)] == [[(2, 2, 8)], [(2, 1, 8)], [None]]
    union.finish(0)
    assert first.seen[-1] == "finished"


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_text_is_that_of_no_draft_alone_and_in_a_batch(monkeypatch, temperature):
    # Beside a step of a tiny model no source would pay.
    monkeypatch.setattr(Payoff, "is_due", lambda *_: True)
    lm = hb.LM(models.llama())
    prompts = [models.prompt(6 + n, n)[0].tolist() for n in range(8)]
    options = dict(max_new_tokens=16, temperature=temperature, seed=3)
    plain = [g.token_ids for g in lm.generate(prompts, draft=None, **options)]
    texts = [p + t for p, t in zip(prompts, plain, strict=True)]
    union = Union(
        Foresight(texts, wrong=4), hb.spec.Suffix(tree=True), hb.spec.TokenRecycling(size=12), hb.spec.NGram()
    )
    for length in (hb.spec.Fixed(20), hb.spec.MeasuredGain()):
        together = lm.generate(prompts, draft=union, length=length, **options)
        assert [g.token_ids for g in together] == plain
        alone = lm.generate(prompts[2], draft=union, length=length, **options)
        assert alone.token_ids == plain[2]
        if isinstance(length, hb.spec.Fixed):
            assert sum(g.stats.accepted for g in together) > 40


def test_a_ratio_test_is_refused_for_drawn_parts():
    lm = hb.LM(models.llama())
    drawn = Union(hb.spec.Suffix(), hb.spec.SmallModel(lm))
    with pytest.raises(ArgumentError, match="'mixed'"):
        lm.generate([1, 2, 3], max_new_tokens=4, draft=drawn, verify="without_replacement", temperature=1.0)
    assert lm.generate([1, 2, 3], max_new_tokens=4, draft=drawn, temperature=1.0, seed=1).token_ids == (
        lm.generate([1, 2, 3], max_new_tokens=4, draft=None, temperature=1.0, seed=1).token_ids
    )


def test_refusals():
    with pytest.raises(ArgumentError, match="no drafts"):
        Union()
    with pytest.raises(ArgumentError, match="rows is 0"):
        Union(hb.spec.Suffix(), rows=0)
