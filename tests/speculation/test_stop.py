"""Stop rules and the measured cost curve."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.engine.ragged_step import RaggedStep
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.speculation import CostCurve, Fixed, MeasuredGain, Signals, Suffix
from tests import models
from tests.drafts import Foresight
from tests.reference import gain as reference

STAIRCASES = {
    "cpu": [(1, 0.058), (2, 0.095), (3, 0.1), (16, 0.1), (24, 0.125), (32, 0.145), (64, 0.205)],
    "steps": [(1, 0.075), (2, 0.075), (4, 0.15), (8, 0.15), (16, 0.25), (32, 0.29), (64, 0.5)],
    "flat": [(1, 0.02), (64, 0.021)],
}


def curve(points: list[tuple[int, float]], times: int = 3) -> CostCurve:
    cost = CostCurve()
    for rows, seconds in points:
        for _ in range(times):
            cost.observe(rows, seconds)
    return cost


class Drafted:
    """A proposal made of confidences, as a source written in Python returns it."""

    def __init__(self, confidences: list[float], match_lengths: list[int] | None = None) -> None:
        self.tokens = list(range(len(confidences)))
        self.signals = Signals(confidences, match_lengths)


@given(
    st.lists(st.lists(st.floats(0, 1), max_size=4), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(1, 16), st.floats(0.01, 0.3)), min_size=1, max_size=6),
    st.integers(0, 9),
)
def test_lengths_reach_the_maximum_over_all_lengths(
    confidences: list[list[float]], points: list[tuple[int, float]], others: int
) -> None:
    cost = curve(points, times=2)
    stop = MeasuredGain(exploration=0.0).start(cost)
    proposals = [Drafted(chain) for chain in confidences]
    stop.see_others(others, 0)
    lengths = stop.choose(proposals)
    acceptances = [stop.probabilities(proposal) for proposal in proposals]
    got = reference.tokens_per_second(cost.seconds, acceptances, lengths, others)
    assert got == pytest.approx(reference.best_rate(cost.seconds, acceptances, others), rel=1e-6)


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12))
def test_the_curve_is_the_closest_that_never_falls(seconds: list[float]) -> None:
    cost = curve(list(enumerate(seconds, start=1)))
    expected = reference.isotonic(seconds)
    assert [cost.seconds(rows) for rows in range(1, len(seconds) + 1)] == pytest.approx(expected)
    assert [rows for rows, _ in cost.points()] == list(range(1, len(seconds) + 1))


def decode(
    stop: MeasuredGain, points: list[tuple[int, float]], acceptance: float, match: int, told: bool, total: int
) -> float:
    """Seconds a token over those of plain decoding, with drafts of 15 tokens that are right with
    probability ``acceptance`` each; the rule sees ``next_tokens`` if ``told``."""
    noise, cost = random.Random(5), curve(points)
    rule = stop.start(cost)
    proposal = Drafted([0.5] * 15, [match + ahead for ahead in range(15)])
    tokens, seconds = 0, 0.0
    while tokens < total:
        (length,) = rule.choose([proposal])
        right = next((k for k in range(15) if noise.random() >= acceptance), 15)
        accepted = min(right, length)
        following = proposal.tokens[accepted] if right > accepted else -1 % 2**32
        rule.observe([proposal], [length], [accepted], [following] if told else None)
        tokens += accepted + 1
        taken = cost.seconds(1 + length)
        assert taken is not None
        seconds += taken
    plain = cost.seconds(1)
    assert plain is not None
    return seconds / tokens / plain


@pytest.mark.parametrize("staircase", STAIRCASES)
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("match", [1, 4, 40])
def test_drafts_that_are_never_right_cost_at_most_two_percent(staircase: str, told: bool, match: int) -> None:
    assert decode(MeasuredGain(), STAIRCASES[staircase], 0.0, match, told, 400) <= 1.02


@pytest.mark.parametrize("staircase", STAIRCASES)
@pytest.mark.parametrize("acceptance", [0.85, 0.97])
def test_good_drafts_gain_almost_what_knowing_them_would(staircase: str, acceptance: float) -> None:
    cost = curve(STAIRCASES[staircase])
    best = 1 / reference.best_rate(cost.seconds, [[acceptance] * 15])
    plain = cost.seconds(1)
    assert plain is not None
    assert decode(MeasuredGain(), STAIRCASES[staircase], acceptance, 4, True, 3000) <= 1.05 * best / plain


def test_a_draft_that_stops_paying_switches_itself_off_and_on_again() -> None:
    stop = MeasuredGain().start(curve(STAIRCASES["cpu"]))
    proposal = Drafted([0.5] * 12, [9] * 12)

    def steps(count: int, right: int) -> list[int]:
        chosen = []
        for _ in range(count):
            (length,) = stop.choose([proposal])
            accepted = min(right, length)
            following = proposal.tokens[accepted] if right > accepted else 99
            stop.observe([proposal], [length], [accepted], [following])
            chosen.append(length)
        return chosen

    assert steps(50, 12)[-1] == 12
    assert sum(steps(100, 0)[50:]) == 0
    assert steps(200, 12)[-1] == 12


def test_a_later_run_on_the_same_curve_knows_what_the_last_one_learned() -> None:
    cost, proposal = curve(STAIRCASES["cpu"]), Drafted([0.5] * 4, [20] * 4)
    stop = MeasuredGain().start(cost)
    before = stop.probabilities(proposal)
    for _ in range(30):
        stop.observe([proposal], [4], [0])
    assert MeasuredGain().start(cost).probabilities(proposal) == stop.probabilities(proposal) < before
    assert MeasuredGain(memory=9.0).start(cost).probabilities(proposal) == before
    assert MeasuredGain().start(curve(STAIRCASES["cpu"])).probabilities(proposal) == before


def test_nothing_is_chosen_without_costs_or_proposals() -> None:
    proposal = Suffix().start([1, 2, 3] * 20).propose((), 16)
    assert MeasuredGain().start(CostCurve()).choose([proposal]) == [0]
    stop = MeasuredGain().start(curve(STAIRCASES["flat"]))
    assert stop.choose([]) == []
    assert stop.choose([Drafted([]), Drafted([])]) == [0, 0]
    assert stop.choose([proposal]) == [16]


JUMP = [(1, 0.1), (31, 0.1), (32, 0.2), (64, 0.2)]
"""Free up to 31 rows, and twice as dear from 32 on."""


def test_rows_of_others_decide_what_a_row_costs() -> None:
    proposal, nothing = Drafted([0.9] * 6, [9] * 6), Drafted([])
    stop, batch = (MeasuredGain(exploration=0.0).start(curve(JUMP)) for _ in range(2))
    assert stop.choose([proposal]) == [6]
    for others in (1, 8, 26, 28, 30, 31, 50):
        stop.see_others(others, 0)
        assert stop.choose([proposal]) == batch.choose([proposal, *[nothing] * others])[:1]
    stop.see_others(30, 0)
    assert stop.choose([proposal]) == [0]
    stop.see_others(4, 40)
    assert stop.choose([proposal]) == [6], "past the jump a row is free again"


@pytest.mark.parametrize("others", [0, 30])
def test_a_request_beside_others_drafts_as_in_a_batch_of_all(
    monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """The rows of requests without a draft are in the same step, and the 32nd costs as much as 31."""
    monkeypatch.setattr(RaggedStep, "_observe_cost", lambda *_: None)  # the curve stays as it is
    engine = hb.Engine(models.llama())
    engine.cost_curve = curve(JUMP)
    prompt = models.prompt(12, 3)[0].tolist()
    text = hb.LM(engine.model).generate(prompt, draft=None, max_new_tokens=24).token_ids
    plain = [engine.submit(prompt, draft=None, max_new_tokens=60) for _ in range(others)]
    while any(len(request.output) < 2 for request in plain):
        engine.step()
    known, length = Foresight([prompt + text], wrong=99), MeasuredGain(exploration=0.0)
    drafting = engine.submit(prompt, draft=known, length=length, max_new_tokens=24)
    out = drafting.result()
    assert out.token_ids == text
    assert (out.stats.drafted == 0) == (others == 30)
    assert not any(request.done for request in plain)


def test_fixed_takes_what_there_is() -> None:
    stop = Fixed(3).start()
    proposals = [Drafted([0.5] * 5), Drafted([0.5]), Drafted([])]
    assert stop.choose(proposals) == [3, 1, 0]
    stop.observe(proposals, [3, 1, 0], [0, 0, 0])
    assert Fixed.needs_costs is False
    assert MeasuredGain.needs_costs is True


def test_refusals_name_the_value() -> None:
    with pytest.raises(ArgumentError, match="length is -1, expected at least 0"):
        Fixed(-1)
    with pytest.raises(ArgumentError, match="tolerance is 1, expected at least 0 and less than 1"):
        MeasuredGain(tolerance=1.0).start(CostCurve())
    with pytest.raises(ShapeError, match=r"match_lengths is \[1\], expected \[2\]"):
        Signals([0.1, 0.2], [3])
    with pytest.raises(ArgumentError, match=r"confidence is 1\.5"):
        Signals([1.5])
    stop = MeasuredGain().start(curve(STAIRCASES["flat"]))
    with pytest.raises(ArgumentError, match="accepted is 2, expected at most 1"):
        stop.observe([Drafted([0.5])], [1], [2])
    with pytest.raises(ShapeError, match=r"next_tokens is \[0\], expected \[1\]"):
        stop.observe([Drafted([0.5])], [1], [1], [])
