"""Processors that keep state on the default model, with the default draft: transformers' text.

Those of xgrammar and outlines are looked at where these packages are installed: ``make test-grammars``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList
from transformers.generation.configuration_utils import SynthIDTextWatermarkingConfig
from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor

import hornbeam as hb

loop = hb.integrations.transformers.generate
QUESTIONS = ["Describe Paris as JSON.", "Describe Lyon, a city in France, as JSON.", "Describe Bonn."]
LENGTH = 24

Make = Callable[[], Any]


def make_of(name: str, model: Any, tokenizer: Any) -> Make:
    """What makes the processor of a package for one call."""
    if name == "guidance":
        return lambda: UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, model)
    if name == "synthid":
        config = SynthIDTextWatermarkingConfig(keys=[3, 5, 7, 11], ngram_len=3)
        return lambda: config.construct_processor(model.config.vocab_size, "cpu")
    pytest.importorskip(name, reason=f"{name} is not installed: make test-grammars")
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    try:
        import grammars
    finally:
        sys.path.pop(0)
    return {"xgrammar": grammars.by_xgrammar, "outlines": grammars.by_outlines}[name](
        model, tokenizer, grammars.SCHEMA
    )


@pytest.fixture(scope="module", params=["xgrammar", "outlines", "guidance", "synthid"])
def made(request: pytest.FixtureRequest, default_model: tuple[Any, Any]) -> tuple[str, Make]:
    return request.param, make_of(request.param, *default_model)


@pytest.fixture(scope="module")
def prompts(default_model: tuple[Any, Any]) -> list[list[int]]:
    template = default_model[1].apply_chat_template
    return [
        template([{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False)
        for text in QUESTIONS
    ]


@pytest.fixture(scope="module")
def plain(
    made: tuple[str, Make], default_model: tuple[Any, Any], prompts: list[list[int]]
) -> list[list[int]]:
    """transformers' text of each prompt alone."""
    return [generate(default_model[0], [prompt], made[1]())[0] for prompt in prompts]


def generate(model: Any, prompts: list[list[int]], processor: Any, **options: Any) -> list[list[int]]:
    """The new tokens of ``model.generate``, up to the end token."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = model.generate(
        ids,
        attention_mask=mask,
        logits_processor=LogitsProcessorList([] if processor is None else [processor]),
        do_sample=False,
        max_new_tokens=LENGTH,
        **options,
    )
    end = model.generation_config.eos_token_id
    texts = [row[width:].tolist() for row in out]
    return [text[: text.index(end) + 1] if end in text else text for text in texts]


pytestmark = pytest.mark.model


def test_inside_of_transformers(
    made: tuple[str, Make], default_model: tuple[Any, Any], prompts: list[list[int]], plain: list[list[int]]
) -> None:
    model, make = default_model[0], made[1]
    assert generate(model, prompts[:1], make(), custom_generate=loop) == plain[:1]
    ours = generate(model, prompts, make(), custom_generate=loop)
    assert ours == generate(model, prompts, make())


def test_of_one_prompt(
    made: tuple[str, Make], default_model: tuple[Any, Any], prompts: list[list[int]], plain: list[list[int]]
) -> None:
    lm = hb.LM(*default_model)
    out = lm.generate(prompts[0], max_new_tokens=LENGTH, logits_processor=made[1]())
    assert out.token_ids == plain[0]
    if made[0] in ("xgrammar", "outlines"):
        assert set(json.loads(out.text)) == {"city", "is_capital"}
        assert out.finish_reason == "eos"
    assert lm.generate(prompts[0], max_new_tokens=LENGTH).token_ids != plain[0], "or nothing was tested"


def test_of_a_batch(
    made: tuple[str, Make], default_model: tuple[Any, Any], prompts: list[list[int]], plain: list[list[int]]
) -> None:
    lm = hb.LM(*default_model)
    out = lm.generate(prompts, max_new_tokens=LENGTH, logits_processor=hb.EachPrompt(lambda *_: made[1]()))
    assert [own.token_ids for own in out] == plain


@pytest.mark.parametrize("field", ["guidance_scale", "watermarking_config"])
def test_by_their_fields(default_model: tuple[Any, Any], prompts: list[list[int]], field: str) -> None:
    watermark = SynthIDTextWatermarkingConfig(keys=[3, 5, 7, 11], ngram_len=3)
    options = {field: 1.5 if field == "guidance_scale" else watermark}
    model = default_model[0]
    ours = generate(model, prompts, None, custom_generate=loop, **options)
    assert ours == generate(model, prompts, None, **options)
