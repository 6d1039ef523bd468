"""What a checkpoint's generation config asks for, as transformers' own greedy loop does it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError
from tests import models

PROMPT = models.prompt(14, 5)[0].tolist()
FIELDS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.4},
    {"no_repeat_ngram_size": 2},
    {"bad_words_ids": [[7], [9, 11], [60]]},
    {"suppress_tokens": list(range(60, 200))},
    {"begin_suppress_tokens": list(range(60, 250))},
    {"sequence_bias": {(5,): 4.0, (7, 9): -2.0}, "repetition_penalty": 1.3},
    {"min_length": 15, "eos_token_id": list(range(1, 200))},
    {"min_new_tokens": 6, "eos_token_id": list(range(1, 200))},
    {"forced_eos_token_id": 9},
    {"forced_bos_token_id": 9},
    {"exponential_decay_length_penalty": (3, 1.6), "eos_token_id": 7, "repetition_penalty": 1.2},
    {"suppress_tokens": [], "min_length": 0, "sequence_bias": None},
]


def changed(**fields: Any) -> Any:
    model = models.llama()
    for name, value in fields.items():
        setattr(model.generation_config, name, value)
    return model


def plain(model: Any, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    more = {"max_new_tokens": 14, "pad_token_id": 0, "do_sample": False}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **more)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("draft", [None, hb.spec.Auto(), "small"], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: next(iter(fields)))
def test_each_field(fields: dict[str, Any], draft: Any) -> None:
    model = changed(**fields)
    lm = hb.LM(model)
    draft = hb.spec.SmallModel(hb.LM(models.llama(layers=1))) if draft == "small" else draft
    prompts = [PROMPT, models.prompt(9, 2)[0].tolist(), [17]]
    want = [plain(model, prompt) for prompt in prompts]
    assert [out.token_ids for out in lm.generate(prompts, draft=draft, max_new_tokens=14)] == want
    assert lm.generate(PROMPT, draft=draft, max_new_tokens=14).token_ids == want[0]


def test_it_is_read_anew_for_every_call() -> None:
    model = models.llama()
    lm = hb.LM(model)
    before = lm.generate(PROMPT, max_new_tokens=14).token_ids
    model.generation_config.no_repeat_ngram_size = 1
    assert lm.generate(PROMPT, max_new_tokens=14).token_ids == plain(model, PROMPT)
    model.generation_config.no_repeat_ngram_size = None
    assert lm.generate(PROMPT, max_new_tokens=14).token_ids == before


def test_none_of_it() -> None:
    fields = {"repetition_penalty": 1.6, "suppress_tokens": list(range(100, 256))}
    lm, right = hb.LM(changed(**fields)), hb.LM(models.llama()).generate(PROMPT, max_new_tokens=14)
    assert lm.generate(PROMPT, max_new_tokens=14, defaults="none").token_ids == right.token_ids
    assert lm.generate(PROMPT, max_new_tokens=14).token_ids != right.token_ids


def test_a_warp_of_ones_own_has_its_own_penalties() -> None:
    lm, warp = hb.LM(changed(repetition_penalty=1.6)), hb.Warp(temperature=0.0, repetition_penalty=1.1)
    right = hb.LM(models.llama()).generate(PROMPT, max_new_tokens=14, warp=warp)
    assert lm.generate(PROMPT, max_new_tokens=14, warp=warp).token_ids == right.token_ids


def test_beside_a_processor_of_ones_own() -> None:
    def odd(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, ::2] = -torch.inf
        return scores

    model = changed(no_repeat_ngram_size=1, suppress_tokens=list(range(128)))
    out = hb.LM(model).generate(PROMPT, max_new_tokens=14, logits_processor=odd).token_ids
    assert all(token % 2 and token >= 128 for token in out)
    assert len({*PROMPT, *out}) == len(set(PROMPT)) + len(out)


def test_its_sampling() -> None:
    model = changed(do_sample=True, temperature=0.7, top_k=9, top_p=0.8)
    lm = hb.LM(model)
    greedy = lm.generate(PROMPT, max_new_tokens=14)
    assert greedy.token_ids == plain(model, PROMPT)
    asked = lm.generate(PROMPT, max_new_tokens=14, seed=3, temperature=0.7, top_k=9, top_p=0.8)
    taken = lm.generate(PROMPT, max_new_tokens=14, seed=3, defaults="checkpoint")
    assert taken.token_ids == asked.token_ids != greedy.token_ids
    own = lm.generate(PROMPT, max_new_tokens=14, seed=3, defaults="checkpoint", temperature=1.0)
    assert own.token_ids == lm.generate(PROMPT, max_new_tokens=14, seed=3, temperature=1.0).token_ids
    model.generation_config.do_sample = False
    assert lm.generate(PROMPT, max_new_tokens=14, defaults="checkpoint").token_ids == greedy.token_ids


def test_defaults_that_there_are_not() -> None:
    with pytest.raises(ArgumentError, match="defaults is 'all', expected 'text', 'checkpoint' or 'none'"):
        hb.LM(models.llama()).generate(PROMPT, defaults="all")
    with pytest.raises(ArgumentError, match="defaults is None, expected"):
        hb.LM(models.llama()).generate(PROMPT, warp=hb.Warp(), defaults=None)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_beams": 4},
        {"guidance_scale": 1.5},
        {"typical_p": 0.9},
        {"eta_cutoff": 0.01},
        {"stop_strings": ["x"]},
        {"max_time": 3.0},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_not_honoured_is_refused_where_all_is_asked_for(fields: dict[str, Any]) -> None:
    lm = hb.LM(changed(**fields))
    [(name, value)] = fields.items()
    with pytest.raises(ArgumentError, match=re.escape(f"has {name}={value!r}, which is not honoured")):
        lm.generate(PROMPT, max_new_tokens=3, defaults="checkpoint")
    assert lm.generate(PROMPT, max_new_tokens=3).token_ids == plain(models.llama(), PROMPT)[:3]
