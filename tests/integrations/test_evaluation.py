"""What harnesses ask of a model, against passes of the model over whole texts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.integrations.evaluation import batches, cut, generated, request_of, scored
from tests import models
from tests.integrations.evaluated import END, model_and_tokenizer

POSITIONS = 96


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(*model_and_tokenizer(POSITIONS))


def expected(lm: hb.LM, context: list[int], continuation: list[int], most: int) -> tuple[float, bool]:
    """By one pass over what fits."""
    text = (context + continuation)[-(most + 1) :]
    with torch.inference_mode():
        values = lm.model(torch.tensor([text[:-1]])).logits[0].double().log_softmax(-1)[-len(continuation) :]
    own = torch.tensor(continuation)
    return float(values.gather(1, own[:, None]).sum()), bool((values.argmax(-1) == own).all())


def questions() -> list[tuple[list[int], list[int]]]:
    """Contexts that begin alike, one twice, one longer than the model's context, with several answers."""
    shared = models.prompt(40, 1)[0].tolist()
    contexts = [[*shared, *models.prompt(5 + 9 * i, i)[0].tolist()] for i in range(6)]
    texts = [[7], [7, 8, 9], [3] * 12]
    found = [
        (context, text)
        for context in [*contexts, contexts[2], models.prompt(130, 9)[0].tolist()]
        for text in texts
    ]
    found.append((shared, models.prompt(POSITIONS, 2)[0].tolist()))
    return [found[place] for place in torch.randperm(len(found)).tolist()]


@pytest.mark.parametrize(("most", "together"), [(None, None), (60, 4)])
def test_likelihoods_are_those_of_passes_over_whole_texts(
    lm: hb.LM, most: int | None, together: int | None
) -> None:
    pairs = [pair for pair in questions() if len(pair[1]) <= (most or POSITIONS)]
    told: list[int] = []
    got = scored(lm, pairs, max_length=most, together=together, told=told.append)
    for (total, is_greedy), (context, continuation) in zip(got, pairs, strict=True):
        want, want_greedy = expected(lm, context, continuation, most or POSITIONS)
        assert total == pytest.approx(want, rel=1e-4, abs=1e-3)
        assert is_greedy == want_greedy
    assert sum(told) == len(pairs)
    assert (len(told) > 1) == (together is not None)


def test_greedy_continuations_are_known_as_such(lm: hb.LM) -> None:
    context = models.prompt(30, 4)[0].tolist()
    best = lm.generate(context, max_new_tokens=4, eos_token_id=[]).token_ids
    other = [*best[:3], (best[3] + 1) % 200]
    assert [is_greedy for _, is_greedy in scored(lm, [(context, best), (context, other)])] == [True, False]


def test_what_is_shared_is_computed_once() -> None:
    lm = hb.LM(*model_and_tokenizer(512))
    rows = []
    forward = lm.engine.forward

    def counted(step: Any, **options: Any) -> Any:
        rows.append(step.num_rows)
        return forward(step, **options)

    lm.engine.forward = counted  # type: ignore[method-assign]
    examples = models.prompt(300, 1)[0].tolist()
    contexts = [[*examples, *models.prompt(20, 10 + i)[0].tolist()] for i in range(8)]
    scored(lm, [(context, [1 + answer, 2, 3]) for context in contexts for answer in range(4)])
    # The examples once, each question once, and the answers but their last tokens.
    assert sum(rows) <= 300 + 8 * (20 + 4 * 2) + 8 * 16
    assert len(rows) <= 5


@pytest.mark.parametrize("pair", [([], [1]), ([1], []), ([1], [2] * (POSITIONS + 1))])
def test_parts_that_cannot_be_scored(lm: hb.LM, pair: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ArgumentError, match="a context has"):
        scored(lm, [pair])


def test_texts_are_those_of_generate(lm: hb.LM) -> None:
    contexts = [models.prompt(length, length)[0].tolist() for length in (5, 30, 90, 200, 30)]
    asked = request_of({"max_gen_toks": 20, "until": [END]}, max_new_tokens=3)
    told: list[int] = []
    got = generated(lm, contexts, asked, together=2, told=told.append)
    for tokens, context in zip(got, contexts, strict=True):
        ids = torch.tensor([context[-(POSITIONS - 20) :]])
        assert tokens == models.greedy(lm.model, ids, 20)
    assert told == [2, 2, 1]
    with pytest.raises(ArgumentError, match="max_gen_toks is 96"):
        generated(lm, contexts, request_of({}, max_new_tokens=96))


def test_options_of_a_generation() -> None:
    asked = request_of(
        {"until": "\n", "temperature": 0.7, "top_p": 0.9, "do_sample": False}, max_new_tokens=9
    )
    assert (asked.stop, asked.max_new_tokens, asked.options) == (("\n",), 9, {})
    asked = request_of(
        {"until": ["a", ""], "max_tokens": 4, "temperature": 0.7, "top_p": 0.9}, max_new_tokens=9
    )
    assert (asked.stop, asked.max_new_tokens) == (("a",), 4)
    assert asked.options == {"temperature": 0.7, "top_p": 0.9, "seed": None}
    assert request_of({"repetition_penalty": 1.5}, max_new_tokens=9).options == {"repetition_penalty": 1.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "num_beams"),
        ({"until": [3]}, "until"),
        ({"max_gen_toks": 4, "max_tokens": 5}, "greatest length"),
        ({"max_gen_toks": 0}, "max_gen_toks is 0"),
        ({"do_sample": True}, "temperature"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        request_of(options, max_new_tokens=9)


def test_runs_of_neighbours() -> None:
    assert [range(9)[run] for run in batches([1, 1, 5, 1, 2, 1], 3)] == [
        range(2), range(2, 3), range(3, 5), range(5, 6)
    ]  # fmt: skip
    assert list(batches([], 3)) == []


def test_the_first_stop_string_counts() -> None:
    assert cut("one two three", ["three", "wo"]) == "one t"
    assert cut("one", []) == "one"
