"""Every architecture that LM promises: the text and the logits of transformers, over pages."""

from __future__ import annotations

import sys

import pytest
import torch
import transformers

import hornbeam as hb
from hornbeam.errors import UnsupportedModel
from tests import models

# Largest difference of a logit, over the spread of the row's logits: the order of summation differs.
LOGITS_TOLERANCE = 2e-5

PROMPT_LENGTHS = [1, 2, 3, 5, 7, 8, 9, 12, 15, 16, 17, 20, 25, 31, 32, 33, 40, 50, 64, 130]


# Older releases of transformers, 5.0 among them, have an attention of their own in these.
REWRITTEN = {"nemotron", "stablelm"}


@pytest.fixture(scope="module", params=sorted(models.ARCHITECTURES))
def model(request):
    found = models.ARCHITECTURES[request.param]()
    module = sys.modules[type(found).__module__]
    if request.param in REWRITTEN and not hasattr(module, "create_causal_mask"):
        with pytest.raises(UnsupportedModel, match="attention"):
            hb.LM(found)
        pytest.skip(f"transformers {transformers.__version__} makes the masks of {request.param} itself")
    return found


@pytest.fixture(scope="module")
def expected(model):
    prompts = [models.prompt(length, seed) for seed, length in enumerate(PROMPT_LENGTHS)]
    return [(prompt[0].tolist(), models.greedy(model, prompt, 16)) for prompt in prompts]


@pytest.mark.parametrize("draft", [None, hb.spec.Suffix()], ids=["plain", "suffix"])
def test_greedy_text_is_that_of_transformers(model, expected, draft):
    lm = hb.LM(model)
    for prompt, text in expected:
        lm.clear_cache()
        out = lm.generate(prompt, max_new_tokens=16, draft=draft, length=hb.spec.Fixed(4))
        assert out.token_ids == text
        assert out.finish_reason == "length"
    lm.tree.debug_check()


def test_greedy_text_in_one_ragged_batch(model, expected):
    lm = hb.LM(model)
    outs = lm.generate([prompt for prompt, _ in expected], max_new_tokens=16, length=hb.spec.Fixed(3))
    assert [out.token_ids for out in outs] == [text for _, text in expected]


def test_logits_of_a_chunked_prefill_are_those_of_transformers(model):
    lm = hb.LM(model)
    prompt = models.prompt(150, 3)
    with torch.inference_mode():
        dense = model(prompt).logits[0]
    branch = lm.tree.branch()
    parts = []
    for begin, end in [(0, 7), (7, 8), (8, 110), (110, 150)]:
        with lm.tree.step([(branch, prompt[0, begin:end].tolist(), None)]) as step:
            parts.append(lm.runner.forward(lm.tree, step).logits)
            step.commit([range(end - begin)])
    paged = torch.cat(parts)
    spread = dense.max(dim=-1).values - dense.min(dim=-1).values
    assert float(((paged - dense).abs().amax(dim=-1) / spread).max()) < LOGITS_TOLERANCE


def test_hidden_states_and_a_choice_of_rows(model):
    lm = hb.LM(model)
    prompt = models.prompt(20, 4)
    with torch.inference_mode():
        dense = model(prompt, output_hidden_states=True)
    branch = lm.tree.branch()
    with lm.tree.step([(branch, prompt[0].tolist(), None)]) as step:
        out = lm.runner.forward(lm.tree, step, logits_rows=[19, 3], hidden=True)
    torch.testing.assert_close(out.logits, dense.logits[0, [19, 3]], atol=1e-3, rtol=1e-3)
    assert out.hidden is not None
    assert len(out.hidden) == len(dense.hidden_states)
    for ours, theirs in zip(out.hidden, dense.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs[0], atol=1e-3, rtol=1e-3)


def test_the_users_own_generate_is_left_alone(model, expected):
    before = model.config._attn_implementation
    lm = hb.LM(model)
    prompt, text = expected[5]
    lm.generate(prompt, max_new_tokens=4)
    assert model.config._attn_implementation == before
    assert models.greedy(model, torch.tensor([prompt]), 16) == text


REASONS = {
    "mamba": "has layers of type linear_attention|do not call transformers' attention interface",
    "t5": "encoder-decoder",
    "qwen3_next": "has layers of type linear_attention",
    "bart": "it does not take positions from position_ids",
    "phimoe": r"layers \[0, 1\] have a window of 8 in their masks and do not hand it to their attention",
}


@pytest.mark.parametrize("name", sorted(models.UNSUPPORTED))
def test_what_does_not_fit_is_refused_with_the_reason(name):
    with pytest.raises(UnsupportedModel, match=REASONS[name]):
        hb.LM(models.UNSUPPORTED[name]())


@pytest.mark.parametrize("head_dim", [4, 6, 8, 12, 16, 20, 24, 40, 56, 72, 112, 192, 320, 512])
def test_heads_of_any_size(head_dim):
    config = transformers.LlamaConfig(
        **models.SMALL, num_attention_heads=4, num_key_value_heads=2, head_dim=head_dim
    )
    model = models.build(config, head_dim)
    prompt = models.prompt(40, head_dim)
    out = hb.LM(model).generate(prompt[0].tolist(), max_new_tokens=16)
    assert out.token_ids == models.greedy(model, prompt, 16)


def test_heads_that_attention_does_not_take_are_refused():
    config = transformers.LlamaConfig(
        **models.SMALL, num_attention_heads=2, num_key_value_heads=1, head_dim=520
    )
    with pytest.raises(UnsupportedModel, match="head size is 520, expected at most 512"):
        hb.LM(models.build(config, 0))


def test_what_is_no_transformers_model_is_refused():
    with pytest.raises(UnsupportedModel, match="Linear is not a transformers model"):
        hb.LM(torch.nn.Linear(2, 2))


def test_weights_on_the_meta_device_are_refused():
    model = models.llama().to("meta")
    with pytest.raises(UnsupportedModel, match="meta device"):
        hb.LM(model)
