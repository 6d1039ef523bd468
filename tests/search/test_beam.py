"""Beam search over tokens: the texts and scores of transformers and of a reference."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList
from transformers.generation import logits_process as known

import hornbeam as hb
from hornbeam.search.beam_groups import BeamGroups, BeamRules, _largest
from tests import models
from tests.reference import beam as reference
from tests.search.beams import ENDS, PROMPT, check_same, ending, found, theirs

ARCHITECTURES = ("llama", "mistral", "gemma2", "gemma3", "qwen3", "gpt_neox")


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return ending()


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
    assert short > 1, "or nothing has ended before its time"
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
