"""What a caller expects a text to be: drafts draw on it, for its request alone, and the text is the same."""

from __future__ import annotations

from typing import Any

import pytest

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.speculation import Auto, Fixed, Suffix, TokenRecycling, Union
from tests import models

PROMPT = models.prompt(20, 3)[0].tolist()
FIXED: dict[str, Any] = {"draft": Suffix(), "length": Fixed(8), "max_new_tokens": 40}


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama(), models.byte_tokenizer())


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 5}])
def test_a_right_prediction_takes_fewer_steps(lm: hb.LM, sampling: dict[str, Any]) -> None:
    plain = lm.generate(PROMPT, max_new_tokens=40, draft=None, **sampling)
    without = lm.generate(PROMPT, **FIXED, **sampling)
    with_it = lm.generate(PROMPT, **FIXED, **sampling, prediction=plain.token_ids)
    assert with_it.token_ids == without.token_ids == plain.token_ids
    # Eight drafted tokens a step, and one of the model's own.
    assert with_it.stats.forward_passes == 5
    assert without.stats.forward_passes > 10


def test_a_wrong_prediction_changes_nothing(lm: hb.LM) -> None:
    plain = lm.generate(PROMPT, max_new_tokens=40, draft=None)
    for prediction in ("no such thing", [1, 2, 3], PROMPT, plain.token_ids[20:], []):
        assert lm.generate(PROMPT, **FIXED, prediction=prediction).token_ids == plain.token_ids


def test_it_is_of_one_request(lm: hb.LM) -> None:
    """Requests with and without one are drafted for together."""
    answer = lm.generate(PROMPT, max_new_tokens=40, draft=None).token_ids
    engine = lm.engine
    told = engine.submit(PROMPT, **FIXED, prediction=answer)
    untold = engine.submit(PROMPT, **FIXED)
    assert engine.group_of(told) is engine.group_of(untold)
    assert told.result().token_ids == untold.result().token_ids == answer
    assert told.stats.forward_passes < untold.stats.forward_passes
    for request in (told, untold):
        request.release()


def test_drafters_know_where_it_begins() -> None:
    drafter = Suffix().start([1, 2, 3], [7, 8, 9])
    assert drafter.propose((), 8).tokens[:3] == [7, 8, 9]
    assert drafter.num_tokens == 3
    drafter.extend([7])
    assert drafter.num_tokens == 4
    assert drafter.fork().propose((), 2).tokens == [8, 9]


@pytest.mark.parametrize("draft", [None, "recycling", Union(TokenRecycling())])
def test_drafts_that_make_no_use_of_it_are_refused(lm: hb.LM, draft: Any) -> None:
    with pytest.raises(ArgumentError, match="prediction is given"):
        lm.generate(PROMPT, draft=draft, prediction="x")


def test_what_it_may_be(lm: hb.LM) -> None:
    for draft in (Auto(), "suffix", Union(TokenRecycling(), Suffix())):
        lm.generate(PROMPT, draft=draft, prediction="x", max_new_tokens=1)
    with pytest.raises(ArgumentError, match="prediction is a chat"):
        lm.generate(PROMPT, prediction=[{"role": "user", "content": "x"}])
    with pytest.raises(ArgumentError, match="prediction holds token id 256"):
        lm.generate(PROMPT, prediction=[256])


def test_logit_bias_is_that_of_a_warp(lm: hb.LM) -> None:
    bias = dict.fromkeys(range(0, 256, 7), 3.0) | {5: float("-inf")}
    out = lm.generate(PROMPT, temperature=0.8, top_k=9, logit_bias=bias, max_new_tokens=20)
    warped = lm.generate(PROMPT, warp=hb.Warp(0.8, 9, bias=bias), max_new_tokens=20)
    assert out.token_ids == warped.token_ids != lm.generate(PROMPT, temperature=0.8, top_k=9).token_ids[:20]
    with pytest.raises(ArgumentError, match=r"logit_bias is .* beside warp"):
        lm.generate(PROMPT, warp=hb.Warp(0.8), logit_bias=bias)
