"""Constraints along the paths of a draft: a processor that depends on every token before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import hornbeam as hb
from hornbeam.speculation import Fixed, LayerSkip, SmallModel, Suffix, shape
from tests import models
from tests.drafts import Foresight


def ids(length, seed=0):
    return models.prompt(length, seed)[0].tolist()


class SumsToARemainder:
    """Allows a third of the tokens, another one after each path."""

    is_pure = True

    def __init__(self):
        self.paths = []

    def __call__(self, input_ids, scores):
        path = input_ids[0].tolist()
        self.paths.append(tuple(path))
        ruled_out = (torch.arange(scores.shape[1]) + sum(path)) % 3 != 0
        return scores.masked_fill(ruled_out, -torch.inf)


def holds(prompt, output):
    text = list(prompt)
    for token in output:
        if (token + sum(text)) % 3:
            return False
        text.append(token)
    return True


@pytest.fixture(scope="module")
def lm():
    return hb.LM(models.llama(layers=3))


PROMPTS = [ids(9 + 5 * i, i) for i in range(4)]


@pytest.mark.parametrize("options", [{}, dict(temperature=1.2, top_p=0.97)])
def test_text_is_that_of_plain_decoding(lm, options):
    plain = lm.generate(
        PROMPTS, max_new_tokens=20, draft=None, logits_processor=SumsToARemainder(), **options
    )
    assert all(holds(p, o.token_ids) for p, o in zip(PROMPTS, plain, strict=True))
    drafts = [
        Suffix(),
        SmallModel(lm, shape.GumbelTree((2, 2, 1))),
        SmallModel(lm, shape.BestFirst(8, 3, 3)),
        LayerSkip(exit_layer=2, shape=shape.StochasticBeam(3, 3)),
    ]
    for draft in drafts:
        out = lm.generate(
            PROMPTS,
            max_new_tokens=20,
            draft=draft,
            length=Fixed(30),
            logits_processor=SumsToARemainder(),
            **options,
        )
        assert [o.token_ids for o in out] == [o.token_ids for o in plain]


def test_the_draft_is_masked_as_the_target_is(lm):
    """The target drafting for itself is always right, which it would not be without the mask."""
    draft = SmallModel(lm, shape.Chain(4))
    out = lm.generate(
        ids(20), max_new_tokens=26, draft=draft, length=Fixed(9), logits_processor=SumsToARemainder()
    )
    assert out.stats.accepted == out.stats.drafted == 20


def test_only_rows_that_the_walk_visits_are_masked(lm):
    """A draft that is wrong at its first token costs one call a step, however long it is."""
    prompt = ids(30)
    plain = lm.generate(prompt, max_new_tokens=12, draft=None, logits_processor=SumsToARemainder())
    known = Foresight([prompt + plain.token_ids + ids(20)], wrong=1)
    seen = SumsToARemainder()
    out = lm.generate(prompt, max_new_tokens=12, draft=known, length=Fixed(8), logits_processor=seen)
    assert out.token_ids == plain.token_ids
    assert out.stats.drafted > 30
    assert len(seen.paths) == 12


@pytest.mark.parametrize("rule", ["without_replacement", "target_only"])
def test_ratio_tests_under_a_mask(lm, rule):
    """Rows below a token that is ruled out are not masked: no walk gets there."""
    draft = SmallModel(hb.LM(models.llama(1, layers=1)), shape.GumbelTree((2, 2)))
    for prompt in PROMPTS:
        out = lm.generate(
            prompt,
            max_new_tokens=15,
            temperature=1.0,
            draft=draft,
            length=Fixed(30),
            verify=rule,
            logits_processor=SumsToARemainder(),
        )
        assert holds(prompt, out.token_ids)


@pytest.mark.model
def test_a_json_schema(default_model):
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    try:
        from json_schema import SCHEMA
    finally:
        sys.path.pop(0)
    model, tokenizer = default_model
    lm = hb.LM(model, tokenizer)
    chat = [{"role": "user", "content": "Describe Paris as JSON with city, country and capital."}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    texts = []
    for draft in (None, Suffix(), LayerSkip(exit_layer=24, shape=shape.GumbelTree((2, 1, 1)))):
        out = lm.generate(
            prompt,
            max_new_tokens=80,
            draft=draft,
            length=Fixed(12),
            logits_processor=hb.integrations.llguidance.json_schema(lm, SCHEMA),
        )
        assert out.finish_reason == "eos"
        assert set(json.loads(out.text)) == {"city", "country", "capital"}
        texts.append(out.text)
    assert len(set(texts)) == 1
