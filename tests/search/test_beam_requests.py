"""Beam search over tokens beside other requests, under budgets, and when something goes wrong."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.engine import beam_searching
from hornbeam.engine.beam_searching import BeamSearching
from hornbeam.errors import ArgumentError, BudgetExhausted, LogitsError
from hornbeam.search import Budget, StepEnd, select
from tests import models
from tests.cache.test_interrupts import Place, interrupted
from tests.search.beams import BEAM, PROMPT, Fails, check_same, ending, found, theirs

#: Places of a call that are interrupted, of all that there are.
PLACES = int(os.environ.get("HORNBEAM_INTERRUPTS", "120")) // 3

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return ending()


def under_way(lm: hb.LM, recipe: Any, processor: Any = None) -> BeamSearching:
    """A search that nobody waits for; whoever steps the engine steps it too."""
    search = BeamSearching(lm.engine, PROMPT, recipe, Budget(), select.best, processor)
    options = lm.engine.options_of(draft=None, defaults="none")
    lm.engine.submit_all([PROMPT], options, streams=False, releases=True, beams=search.beams)
    return search


def ended(search: BeamSearching) -> list[tuple[float, list[int]]]:
    return [(beam.score, beam.token_ids) for beam in search.beams.groups.ended()]


def test_neighbours_change_nothing(lm: hb.LM) -> None:
    alone = lm.search(PROMPT, recipe=BEAM)
    beside = [
        lm.engine.submit(
            "another text " * 9, max_new_tokens=400, temperature=1.0, draft=None, eos_token_id=[]
        ),
        lm.engine.submit(PROMPT, max_new_tokens=400, eos_token_id=[], draft=hb.spec.Suffix()),
    ]
    check_same(found(lm.search(PROMPT, recipe=BEAM)), found(alone))
    assert all(request.output for request in beside)
    for request in beside:
        request.cancel()
    lm.clear_cache()
    check_same(found(lm.search(PROMPT, recipe=BEAM)), found(alone))
    check_same(found(lm.search(PROMPT, recipe=BEAM, seed=5, draft=None)), found(alone))
    assert lm.tree.stats()["branches"] == 0


def test_searches_of_several_threads_share_steps(lm: hb.LM) -> None:
    prompts = [PROMPT, PROMPT[::-1], PROMPT * 3]
    alone = [lm.search(prompt, recipe=BEAM) for prompt in prompts]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda prompt: lm.search(prompt, recipe=BEAM), prompts))
    for one, other in zip(alone, together, strict=True):
        check_same(found(other), found(one))
        assert other.ledger.tokens == one.ledger.tokens
    assert lm.tree.stats()["branches"] == 0


def test_a_step_that_is_taken_back_is_decided_once(lm: hb.LM) -> None:
    """The other is asked after the beams, and fails."""
    alone = lm.search(PROMPT, recipe=BEAM)
    counted = Fails(0, RuntimeError())
    search = under_way(lm, BEAM, counted)
    failing = lm.engine.submit(
        "xyz", max_new_tokens=50, eos_token_id=[], logits_processor=Fails(4, RuntimeError("of its own"))
    )
    while lm.engine.step():
        pass
    assert "of its own" in str(failing.error)
    check_same(ended(search), found(alone))
    assert counted.calls == 18
    lm.tree.debug_check()


def test_beams_are_read_again_where_the_model_has_changed(lm: hb.LM) -> None:
    alone = lm.search(PROMPT, recipe=BEAM)
    search = under_way(lm, BEAM)
    for step in range(200):
        if not lm.engine.step():
            break
        if step in (1, 6, 7):
            lm.invalidate()
    check_same(ended(search), found(alone))
    assert lm.tree.stats()["branches"] == 0


def places(call: Any) -> range:
    """Some places of a call, of all that there are."""
    place = Place(1 << 60)
    interrupted(call, place)
    whole = (1 << 60) - place.left
    return range(1, whole, max(1, whole // PLACES))


SHORT = hb.recipes.beam(width=3, max_new_tokens=6)


def test_an_interrupt_at_any_place_of_a_search() -> None:
    lm = hb.LM(models.llama(layers=1), models.byte_tokenizer())

    def call() -> list[Any]:
        return [lm.search(PROMPT, recipe=SHORT)]

    [right] = call()
    cut = 0
    for at in places(call):
        outs = interrupted(call, Place(at))
        if outs:
            cut += outs[0].stop == "interrupted"
            assert outs[0].best is not None
        if lm.tree.stats()["branches"]:
            gc.collect()
        assert lm.engine.requests == []
        assert lm.tree.stats()["branches"] == 0
        assert not lm.tree.has_open_step
        lm.tree.debug_check()
        check_same(found(call()[0]), found(right))
    assert cut > 3


def test_an_interrupt_of_another_call_leaves_beams_going_on() -> None:
    lm = hb.LM(models.llama(layers=1), models.byte_tokenizer())
    right = lm.search(PROMPT, recipe=SHORT)

    def call() -> list[Any]:
        return [lm.generate(PROMPT[:5], max_new_tokens=4, draft=None)]

    def other() -> BeamSearching:
        search = under_way(lm, SHORT)
        lm.engine.step()
        return search

    search = other()
    tried = places(call)
    while lm.engine.step():
        pass
    for at in tried:
        search = other()
        interrupted(call, Place(at))
        while lm.engine.step():
            pass
        check_same(ended(search), found(right))
        assert search.beams.now.written == right.ledger.tokens
        assert lm.engine.requests == []
        if lm.tree.stats()["branches"]:
            gc.collect()
        assert lm.tree.stats()["branches"] == 0
        lm.tree.debug_check()


def test_a_token_budget_below_a_step_finds_nothing(lm: hb.LM) -> None:
    with pytest.raises(BudgetExhausted, match="the budget of tokens was spent before the first token"):
        lm.search(PROMPT, recipe=BEAM, budget=Budget(tokens=4))


LIMITED = (BEAM, hb.recipes.diverse_beam(width=6, groups=2, max_new_tokens=14))


@pytest.fixture(scope="module")
def unlimited(lm: hb.LM) -> dict[Any, hb.search.SearchResult]:
    found = {}
    for recipe in LIMITED:
        lm.clear_cache()  # what is cached decides on which pages a beam begins
        found[recipe] = lm.search(PROMPT, recipe=recipe)
    return found


@settings(max_examples=30, deadline=None)
@given(
    recipe=st.sampled_from(LIMITED),
    tokens=st.none() | st.integers(0, 120),
    forwards=st.none() | st.integers(0, 25),
    kilobytes=st.none() | st.integers(1, 400),
)
def test_no_budget_is_passed(
    lm: hb.LM,
    unlimited: dict[Any, hb.search.SearchResult],
    recipe: Any,
    tokens: int | None,
    forwards: int | None,
    kilobytes: int | None,
) -> None:
    kv_bytes = None if kilobytes is None else f"{kilobytes}KB"
    budget = Budget(tokens=tokens, forwards=forwards, kv_bytes=kv_bytes)
    whole = unlimited[recipe]
    lm.clear_cache()
    try:
        result = lm.search(PROMPT, recipe=recipe, budget=budget)
    except BudgetExhausted:
        assert any(limit is not None for limit in (tokens, forwards, kilobytes))
        assert lm.tree.stats()["branches"] == 0
        return
    assert lm.tree.stats()["branches"] == 0
    ledger = result.ledger
    for kind, limit in (("tokens", tokens), ("forwards", forwards), ("kv_bytes", budget.kv_bytes)):
        assert limit is None or getattr(ledger, kind) <= limit  # type: ignore[operator]
        assert result.stop != kind or limit is not None
    assert ledger.kv_bytes_held == 0
    assert result.best is not None
    if result.stop == "over":
        check_same(found(result), found(whole))
        assert ledger.kv_bytes == whole.ledger.kv_bytes > 0
    else:
        under_way = [path for path in result.tree.paths.values() if path.node and not path.is_finished]
        assert under_way
        assert all(len(path.token_ids) * recipe.width <= ledger.tokens for path in under_way)
        assert result.best is (result.tree.finished or under_way)[0]


def test_seconds_end_a_search(lm: hb.LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test's own, which moves by a hundredth each time it is read."""
    reads = iter(range(10**6))
    monkeypatch.setattr(beam_searching, "time", SimpleNamespace(perf_counter=lambda: next(reads) / 100))
    result = lm.search(PROMPT, recipe=BEAM, budget=Budget(seconds=0.1))
    assert result.stop == "seconds"
    assert 0.1 <= result.ledger.seconds < 0.12
    assert result.best is not None


@pytest.mark.parametrize(
    ("error", "stop"), [(RuntimeError("no idea"), "error"), (KeyboardInterrupt(), "interrupted")]
)
def test_what_goes_wrong_leaves_the_best_so_far(lm: hb.LM, error: BaseException, stop: str) -> None:
    beside = lm.engine.submit("xyz", max_new_tokens=300, eos_token_id=[], draft=None)
    result = lm.search(PROMPT, recipe=BEAM, logits_processor=Fails(6, error))
    assert result.stop == stop
    assert result.error is not None
    assert result.best is not None
    whole = lm.search(PROMPT, recipe=BEAM, logits_processor=Fails(0, error))
    assert whole.stop == "over"
    assert max(len(path.token_ids) for path in result.tree.paths.values()) == 5
    with pytest.raises(type(error)):
        lm.search(PROMPT, recipe=BEAM, logits_processor=Fails(1, error))
    assert not beside.done
    beside.cancel()
    assert lm.tree.stats()["branches"] == 0
    lm.tree.debug_check()


def test_memory_that_runs_out_leaves_the_best_so_far() -> None:
    plain = hb.LM(models.llama(), models.byte_tokenizer())
    page = plain.tree.slab_bytes
    small = hb.LM(models.llama(), models.byte_tokenizer(), max_kv_bytes=6 * page)
    result = small.search(PROMPT, recipe=hb.recipes.beam(width=8, max_new_tokens=20))
    assert result.stop == "error"
    assert isinstance(result.error, hb.errors.OutOfPages)
    assert result.best is not None
    assert small.tree.stats()["branches"] == 0
    assert small.generate(PROMPT, max_new_tokens=5).token_ids


def test_beams_share_what_they_share(lm: hb.LM) -> None:
    """A prompt is held once, and a beam that none goes on from is let go of."""
    prompt = PROMPT * 20
    held: list[int] = []

    def look(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        held.append(lm.tree.stats()["branches"])
        return scores

    lm.clear_cache()
    result = lm.search(prompt, recipe=BEAM, logits_processor=look)
    assert set(held[1:]) == {5}
    assert result.ledger.kv_bytes <= 3 * 5 * lm.tree.slab_bytes
    assert result.ledger.forwards <= 18 + 3


def test_logits_that_are_none(lm: hb.LM) -> None:
    def nothing(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, float("-inf" if ids.shape[1] > len(PROMPT) + 2 else "0"))

    result = lm.search(PROMPT, recipe=BEAM, logits_processor=nothing)
    assert isinstance(result.error, LogitsError)
    assert "greatest" in str(result.error)


def test_a_context_that_is_full_ends_all_beams() -> None:
    model = models.llama()
    ours = hb.LM(model, models.byte_tokenizer())
    prompt = (PROMPT * 50)[:507]
    result = ours.search(prompt, recipe=hb.recipes.beam(width=3, max_new_tokens=60))
    assert result.stop == "over"
    assert {len(path.token_ids) for path in result.tree.finished} == {6}
    check_same(found(result), theirs(model, prompt, 3, 6))


def test_results_are_text(lm: hb.LM) -> None:
    result = lm.search("where to go?", recipe=BEAM, select=select.majority)
    plain = lm.generate("where to go?", max_new_tokens=18, draft=None)
    greedy = lm.search("where to go?", recipe=hb.recipes.beam(width=1, max_new_tokens=18)).best
    assert greedy is not None
    assert (greedy.text, greedy.token_ids) == (plain.text, plain.token_ids)
    assert [answer.votes for answer in result.answers]
    assert result.best in result.tree.finished


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"value": len},
            "value is <built-in function len>, expected it to be left out: Beam searches over tokens",
        ),
        ({"finish": len}, "finish is <built-in function len>, expected it to be left out"),
        ({"step": StepEnd(max_tokens=3)}, "step is StepEnd.*, expected it to be left out"),
        ({"draft": hb.spec.Suffix()}, "draft is Suffix.*, expected it to be left out"),
        ({"keep": hb.recipes.int8()}, "keep is .*, expected it to be left out"),
        ({"budget": 100}, "budget is 100, expected a hornbeam.Budget"),
        ({"seed": -1}, "seed is -1, expected 0 to"),
        ({"select": "best"}, "select is 'best', expected a callable"),
        ({"logits_processor": 3}, "logits_processor is 3, expected a callable"),
        (
            {"recipe": hb.recipes.rebase(width=2), "logits_processor": hb.EachPrompt(lambda: len)},
            "logits_processor keeps a state for each text",
        ),
    ],
)
def test_options_are_checked(lm: hb.LM, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        lm.search(PROMPT, **{"recipe": BEAM, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is 0, expected"),
        ({"early_stopping": "sometimes"}, "early_stopping is 'sometimes', expected True, False or 'never'"),
        ({"early_stopping": 1}, "early_stopping is 1, expected True, False or 'never'"),
        ({"length_penalty": "long"}, "length_penalty is 'long', expected a finite number"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0, expected"),
        ({"groups": 3}, "groups is 3, expected a divisor of width, which is 8"),
        ({"diversity": -1.0}, "diversity is -1.0, expected 0 or more"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        hb.recipes.diverse_beam(**options)


def test_a_select_or_a_step_that_fails_leaves_what_there_is(
    lm: hb.LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = lm.search(PROMPT, recipe=BEAM)
    wrong = lm.search(PROMPT, recipe=BEAM, select=lambda paths: "the first")  # type: ignore[arg-type, return-value]
    assert wrong.stop == "error"
    assert "select gave 'the first', expected a path or None" in str(wrong.error)
    assert wrong.best is not None
    assert plain.best is not None
    assert wrong.best.token_ids == plain.best.token_ids
    drive, calls = lm.engine.drive, [0]

    def failing(waiting: Any) -> None:
        calls[0] += 1
        if calls[0] == 4:
            raise RuntimeError("no step")
        drive(waiting)

    monkeypatch.setattr(lm.engine, "drive", failing)
    cut = lm.search(PROMPT, recipe=BEAM)
    assert (cut.stop, str(cut.error)) == ("error", "no step")
    assert cut.ledger._native.reserved(0) == [0] * 5
    assert cut.ledger.forwards == 4
    with pytest.raises(ArgumentError, match="select is None, expected a callable"):
        lm.search(PROMPT, recipe=hb.recipes.rebase(width=2), select=None)  # type: ignore[arg-type]
