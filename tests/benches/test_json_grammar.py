"""The grammar that benches are held to: every text of it is JSON, and matchers rule out all else."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.bench.bench_grammar import JOBS
from hornbeam.bench.json_grammar import Matcher, PureMatcher, Vocabulary, objects
from tests import models

FIELDS = JOBS[0][1]
SAMPLE = {"name": "Ulm", "country": "x", "is_capital": False, "population": 120, "sights": ["a", "b: c", ""]}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    tokenizer = models.byte_tokenizer()
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    return Vocabulary(tokenizer, 256)


def matches(vocabulary: Vocabulary, text: str) -> bool:
    state = vocabulary.after(objects(FIELDS), text)
    return state is not None and not bool(vocabulary.ruled_out(state)[vocabulary.eos_token_id])


@given(
    st.fixed_dictionaries(
        {
            "name": st.from_regex(r"[ -!#-\[\]-~]*", fullmatch=True),
            "country": st.just("{}, "),
            "is_capital": st.booleans(),
            "population": st.integers(1, 10**9),
            "sights": st.lists(st.from_regex(r"[a-z:,]*", fullmatch=True), min_size=1, max_size=4),
        }
    )
)
def test_objects_match(value: dict[str, object]) -> None:
    text = json.dumps({name: value[name] for name in FIELDS})
    state = objects(FIELDS)
    plain = Vocabulary.__new__(Vocabulary)
    plain._steps = {}
    assert plain.after(state, text) == ("empty",)
    for end in range(len(text)):
        assert plain.after(state, text[:end]) not in (None, ("empty",))


@pytest.mark.parametrize(
    "text",
    [
        "",
        json.dumps(SAMPLE)[:-1],
        json.dumps(SAMPLE) + " ",
        json.dumps({**SAMPLE, "population": 0}),
        json.dumps({**SAMPLE, "name": 3}),
        json.dumps({**SAMPLE, "is_capital": None}),
        json.dumps({**SAMPLE, "name": "\n"}),
        json.dumps(dict(reversed(SAMPLE.items()))),
    ],
)
def test_nothing_else_does(vocabulary: Vocabulary, text: str) -> None:
    assert matches(vocabulary, json.dumps(SAMPLE))
    assert not matches(vocabulary, text)


def test_both_matchers_give_one_text(vocabulary: Vocabulary) -> None:
    lm = hb.LM(models.llama(), models.byte_tokenizer())
    prompt, grammar = models.prompt(9)[0].tolist(), objects({"a": "integer", "b": "boolean"})
    texts = set()
    for draft in (None, hb.spec.Auto(), hb.spec.SmallModel(hb.LM(models.llama(layers=1)))):
        for processor in (Matcher(vocabulary, grammar), PureMatcher(vocabulary, grammar, len(prompt))):
            out = lm.generate(
                prompt, draft=draft, logits_processor=processor, eos_token_id=0, max_new_tokens=60
            )
            texts.add(tuple(out.token_ids))
            state = vocabulary.after(grammar, lm.tokenizer.decode(out.token_ids[:-1]))
            assert state is not None
            assert out.finish_reason == "length" or state == ("empty",)
    assert len(texts) == 1


def test_a_token_that_was_ruled_out(vocabulary: Vocabulary) -> None:
    matcher = Matcher(vocabulary, objects({"a": "integer"}))
    scores = matcher(torch.tensor([[1, 2]]), torch.zeros(1, 256))
    assert (scores[0] > -torch.inf).nonzero().flatten().tolist() == [vocabulary.texts.index("{")]
    with pytest.raises(ValueError, match="does not follow"):
        matcher(torch.tensor([[1, 2, vocabulary.texts.index("}")]]), torch.zeros(1, 256))
