"""Beam search over tokens: texts and scores of transformers and of a reference, whatever runs beside it."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList
from transformers.generation import logits_process as known

import hornbeam as hb
from hornbeam.engine import beam_searching
from hornbeam.engine.beam_searching import BeamSearching
from hornbeam.errors import ArgumentError, BudgetExhausted, LogitsError
from hornbeam.search import Budget, StepEnd, select
from hornbeam.search.beam_groups import BeamGroups, BeamRules, _largest
from tests import models
from tests.reference import beam as reference

PROMPT = list(b"where to go?")
ENDS: tuple[list[int] | None, ...] = (None, [7], list(range(3, 256, 9)))
ARCHITECTURES = ("llama", "mistral", "gemma2", "gemma3", "qwen3", "gpt_neox")


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    model = models.llama()
    model.generation_config.eos_token_id = ENDS[2]
    return hb.LM(model, models.byte_tokenizer())


def theirs(
    model: Any, prompt: Sequence[int], width: int, count: int, **options: Any
) -> list[tuple[float, Any]]:
    """What ``model.generate`` finds: scores and new tokens, up to the end token."""
    ids = torch.tensor([list(prompt)])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        num_beams=width,
        num_return_sequences=width,
        do_sample=False,
        max_new_tokens=count,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    ends = set(model.generation_config.eos_token_id or ())
    rows = []
    for row in out.sequences[:, len(prompt) :].tolist():
        end = next((at + 1 for at, token in enumerate(row) if token in ends), len(row))
        rows.append(row[:end])
    return list(zip(out.sequences_scores.tolist(), rows, strict=True))


def found(result: hb.search.SearchResult) -> list[tuple[float | None, Any]]:
    return [(path.value, path.token_ids) for path in result.tree.finished]


def check_same(ours: Any, want: Any) -> None:
    assert [tokens for _, tokens in ours] == [tokens for _, tokens in want]
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in want], abs=2e-4, rel=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_texts_and_scores_are_those_of_transformers(name: str) -> None:
    """Twenty prompts, among them every kind of end, and all beams of each."""
    model = models.ARCHITECTURES[name]()
    ours = hb.LM(model, models.byte_tokenizer())
    draws = random.Random(name)
    short = 0
    for number in range(20):
        prompt = [draws.randrange(256) for _ in range(draws.choice((1, 2, 5, 17, 40)))]
        width, count = (2, 4, 8)[number % 3], draws.choice((1, 6, 9))
        model.generation_config.eos_token_id = ENDS[1:][number % 2] if number % 5 else None
        kinds: dict[str, Any] = {
            "early_stopping": (False, True, "never")[number // 2 % 3],
            "length_penalty": (1.0, 0.0, -1.0, 2.0)[number % 4],
        }
        want = theirs(model, prompt, width, count, **kinds)
        recipe = hb.recipes.beam(width=width, max_new_tokens=count, **kinds)
        result = ours.search(prompt, recipe=recipe)
        check_same(found(result), want)
        assert result.stop == "over"
        assert result.best is result.tree.finished[0]
        short += any(len(path.token_ids) < count for path in result.tree.finished)
    assert short > 3, "or nothing has ended before its time"
    assert ours.tree.stats()["branches"] == 0
    ours.tree.debug_check()


def allowed(batch: int, ids: torch.Tensor) -> list[int]:
    """A grammar: after some tokens one alone may follow, after others four."""
    last = int(ids[-1])
    count = 1 if last % 3 == 0 else 4
    return [(last * 7 + 11 * index) % 256 for index in range(count)]


class Matcher:
    """A matcher that keeps state: it counts, and looks at what it saw before."""

    def __init__(self) -> None:
        self.seen: list[list[list[int]]] = []

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen.append(ids.tolist())
        scores[:, len(self.seen) % 256] = -float("inf")
        scores[:, [row[-1] for row in self.seen[0]]] -= 1.5
        return scores


PROCESSORS: dict[str, Callable[[], list[Any]]] = {
    "penalty": lambda: [known.RepetitionPenaltyLogitsProcessor(1.4)],
    "n-grams": lambda: [known.NoRepeatNGramLogitsProcessor(1)],
    "least length": lambda: [known.MinNewTokensLengthLogitsProcessor(len(PROMPT), 9, ENDS[2])],
    "prefix": lambda: [known.PrefixConstrainedLogitsProcessor(allowed, 4)],
    "several": lambda: [
        known.MinLengthLogitsProcessor(len(PROMPT) + 6, ENDS[2]),
        known.TemperatureLogitsWarper(0.7),
        known.RepetitionPenaltyLogitsProcessor(0.8),
        known.TopKLogitsWarper(3),
    ],
    "state": lambda: [Matcher()],
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_processors_see_what_transformers_shows_them(lm: hb.LM, name: str) -> None:
    # Short texts are favoured, so that some end.
    recipe = hb.recipes.beam(width=4, max_new_tokens=14, length_penalty=-1.0)
    given, shown = PROCESSORS[name](), PROCESSORS[name]()
    plain = lm.search(PROMPT, recipe=recipe)
    processors = LogitsProcessorList(shown)
    want = theirs(lm.model, PROMPT, 4, 14, length_penalty=-1.0, logits_processor=processors)
    result = lm.search(PROMPT, recipe=recipe, logits_processor=given)
    check_same(found(result), want)
    assert found(result) != found(plain), "or nothing was tested"
    if name == "state":
        assert given[0].seen == shown[0].seen
    rows = [lm.model(torch.tensor([PROMPT + path.token_ids])).logits[0] for path in result.tree.finished]
    for path, logits in zip(result.tree.finished, rows, strict=True):
        raw = torch.log_softmax(logits.float(), -1)[len(PROMPT) - 1 : -1]
        own = raw.gather(1, torch.tensor(path.token_ids)[:, None])[:, 0]
        assert path.logprobs == pytest.approx(own.tolist(), abs=1e-4)


def test_a_processor_for_each_prompt(lm: hb.LM) -> None:
    made: list[Matcher] = []

    def make(index: int, prompt: list[int]) -> Matcher:
        assert (index, prompt) == (0, PROMPT)
        made.append(Matcher())
        return made[-1]

    recipe = hb.recipes.beam(width=4, max_new_tokens=6)
    one = lm.search(PROMPT, recipe=recipe, logits_processor=hb.EachPrompt(make))
    other = lm.search(PROMPT, recipe=recipe, logits_processor=hb.EachPrompt(make))
    assert found(one) == found(other)
    assert made[0].seen == made[1].seen


def test_the_checkpoints_own_fields_count() -> None:
    model = models.qwen3()
    model.generation_config.update(
        repetition_penalty=1.3, no_repeat_ngram_size=2, suppress_tokens=[5, 200], min_new_tokens=5
    )
    model.generation_config.eos_token_id = ENDS[2]
    ours = hb.LM(model, models.byte_tokenizer())
    result = ours.search(PROMPT, recipe=hb.recipes.beam(width=3, max_new_tokens=10))
    check_same(found(result), theirs(model, PROMPT, 3, 10))


# -- the rules, without a model ----------------------------------------------------------------------------


def table(seed: int, vocabulary: int) -> reference.After:
    """Log-probabilities that the tokens alone decide."""

    def after(tokens: list[int]) -> list[float]:
        draws = torch.Generator().manual_seed(zlib.crc32(bytes([seed, *tokens])))
        found: list[float] = torch.log_softmax(torch.randn(vocabulary, generator=draws), -1).tolist()
        return found

    return after


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 255),
    groups=st.integers(1, 4),
    width=st.integers(1, 4),
    count=st.integers(1, 9),
    eos=st.sets(st.integers(0, 29), max_size=6),
    length_penalty=st.sampled_from((1.0, 0.0, 0.6, 2.0, -1.0)),
    early_stopping=st.sampled_from((False, True, "never")),
    diversity=st.sampled_from((0.0, 0.3, 1.0, 50.0)),
)
def test_the_choice_is_that_of_the_reference(
    seed: int,
    groups: int,
    width: int,
    count: int,
    eos: set[int],
    length_penalty: float,
    early_stopping: Any,
    diversity: float,
) -> None:
    after = table(seed, 30)
    rules = BeamRules(width, length_penalty, early_stopping, count, tuple(sorted(eos)))
    ours = BeamGroups.start(rules, torch.device("cpu"), groups, diversity)
    while not ours.is_over:
        rows = torch.tensor([after(tokens) for tokens in ours.token_ids().tolist()])
        before = [rows.clone(), ours.token_ids().tolist()]
        ours = ours.step(rows, rows)
        assert torch.equal(rows, before[0]), "what the caller gave is changed"
    want = reference.diverse_beam_search(
        after, groups * width, groups, diversity, count, sorted(eos), length_penalty, early_stopping
    )
    for group, beams in zip(ours.groups, want, strict=True):
        check_same([(beam.score, beam.token_ids) for beam in group.ended()], beams)
    best = [beam.score for beam in ours.ended()]
    assert best == sorted(best, reverse=True)


@pytest.mark.parametrize("kind", ["plain", "ties", "out", "nan", "odd"])
def test_the_largest_are_those_of_topk(kind: str) -> None:
    size = 8 * 5003 if kind == "odd" else 8 * 49152
    values = torch.randn(size)
    if kind == "ties":
        values = (values * 4).round()
    elif kind == "out":
        values[9:] = -1e9
    elif kind == "nan":
        values[777] = float("nan")
    for count in (1, 2, 16, 40):
        got, want = _largest(values, count), torch.topk(values, count)
        assert torch.equal(got[1], want.indices)
        assert torch.equal(got[0].nan_to_num(9e9), want.values.nan_to_num(9e9))


def test_a_token_budget_below_a_step_finds_nothing(lm: hb.LM) -> None:
    recipe = hb.recipes.beam(width=4, max_new_tokens=8)
    with pytest.raises(BudgetExhausted, match="the budget of tokens was spent before the first token"):
        lm.search(PROMPT, recipe=recipe, budget=Budget(tokens=3))


# -- diverse beams -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diversity", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_diverse_beams_are_those_of_the_reference(name: str, diversity: float) -> None:
    model = models.ARCHITECTURES[name]()
    model.generation_config.eos_token_id = ENDS[2]
    ours = hb.LM(model, models.byte_tokenizer())
    recipe = hb.recipes.diverse_beam(width=6, groups=3, diversity=diversity, max_new_tokens=9)
    result = ours.search(PROMPT, recipe=recipe)
    want = reference.diverse_beam_search(reading(model), 6, 3, diversity, 9, ENDS[2] or [])
    check_same(found(result), sorted((beam for own in want for beam in own), key=lambda beam: -beam[0]))
    assert result.ledger.tokens <= 6 * 9
    assert ours.tree.stats()["branches"] == 0
    if diversity == 4.0:
        assert len({tuple(path.token_ids[:1]) for path in result.tree.finished}) >= 3


def reading(model: Any) -> reference.After:
    known: dict[tuple[int, ...], list[float]] = {}

    def after(tokens: list[int]) -> list[float]:
        if tuple(tokens) not in known:
            logits = model(torch.tensor([PROMPT + tokens])).logits[0, -1]
            known[tuple(tokens)] = torch.log_softmax(logits.float(), -1).tolist()
        return known[tuple(tokens)]

    return after


def test_one_group_is_a_beam_search(lm: hb.LM) -> None:
    one = lm.search(PROMPT, recipe=hb.recipes.diverse_beam(width=5, groups=1, max_new_tokens=12))
    check_same(found(one), found(lm.search(PROMPT, recipe=hb.recipes.beam(width=5, max_new_tokens=12))))


# -- beside other requests -----------------------------------------------------------------------------------

BEAM = hb.recipes.beam(width=5, max_new_tokens=18, early_stopping="never")


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


@dataclass
class Fails:
    """A processor that goes wrong in one of its calls."""

    call: int
    error: BaseException
    calls: int = 0

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.call:
            raise self.error
        return scores


def test_a_step_that_is_taken_back_is_decided_once(lm: hb.LM) -> None:
    alone = lm.search(PROMPT, recipe=BEAM)
    failing = lm.engine.submit(
        "xyz", max_new_tokens=50, eos_token_id=[], logits_processor=Fails(4, RuntimeError("of its own"))
    )
    counted = Fails(0, RuntimeError())
    result = lm.search(PROMPT, recipe=BEAM, logits_processor=counted)
    assert "of its own" in str(failing.error)
    check_same(found(result), found(alone))
    assert counted.calls == 18
    lm.tree.debug_check()


def test_beams_are_read_again_where_the_model_has_changed(lm: hb.LM) -> None:
    alone = lm.search(PROMPT, recipe=BEAM)
    search = BeamSearching(lm.engine, PROMPT, BEAM, Budget(), select.best, None)
    options = lm.engine.options_of(draft=None, defaults="none")
    lm.engine.submit_all([PROMPT], options, streams=False, releases=True, beams=search.beams)
    for step in range(200):
        if not lm.engine.step():
            break
        if step in (1, 6, 7):
            lm.invalidate()
    ended = [(beam.score, beam.token_ids) for beam in search.beams.groups.ended()]
    check_same(ended, found(alone))
    assert lm.tree.stats()["branches"] == 0


# -- budgets, and what goes wrong ----------------------------------------------------------------------------


LIMITED = (BEAM, hb.recipes.diverse_beam(width=6, groups=2, max_new_tokens=14))


@pytest.fixture(scope="module")
def unlimited(lm: hb.LM) -> dict[Any, hb.search.SearchResult]:
    return {recipe: lm.search(PROMPT, recipe=recipe) for recipe in LIMITED}


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
    try:
        result = lm.search(PROMPT, recipe=recipe, budget=budget)
    except BudgetExhausted:
        assert tokens is not None or forwards is not None
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
        ({"keep": hb.recipes.int8()}, "keep is given, expected None"),
        ({"budget": 100}, "budget is 100, expected a hornbeam.Budget"),
        ({"seed": -1}, "seed is -1, expected 0 to"),
        ({"select": "best"}, "select is 'best', expected a callable"),
        ({"logits_processor": 3}, "logits_processor is 3, expected a callable"),
        (
            {"recipe": hb.recipes.rebase(width=2), "logits_processor": len},
            "logits_processor is given, expected None",
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
