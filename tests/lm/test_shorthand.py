"""Options as people write them: names, numpy's numbers, sizes as text; and messages for what is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError
from tests import models

PROMPT = models.prompt(40, 3)[0].tolist()


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama())


def text(lm: hb.LM, **options: Any) -> list[int]:
    ids: list[int] = lm.generate(PROMPT, **{"max_new_tokens": 8, "draft": None} | options).token_ids
    return ids


@pytest.mark.parametrize("name", ["suffix", "ngram", "recycling", "auto", "none"])
def test_drafts_by_name(lm: hb.LM, name: str) -> None:
    assert text(lm, draft=name) == text(lm)


@pytest.mark.parametrize("name", ["snap_kv", "ada_kv", "int8", "streaming_llm"])
def test_recipes_by_name(lm: hb.LM, name: str) -> None:
    recipe = getattr(hb.recipes, name)()
    assert text(lm, keep=name) == text(lm, keep=recipe)
    assert recipe.name.startswith(name[:4])


def test_numbers_of_numpy_and_torch(lm: hb.LM) -> None:
    plain = text(lm, temperature=0.5, top_k=20, top_p=0.75, seed=3, logprobs=2)
    options: dict[str, Any] = {
        "max_new_tokens": np.int64(8),
        "temperature": np.float32(0.5),
        "top_k": np.int16(20),
        "top_p": np.float16(0.75),
        "seed": torch.tensor(3),
        "logprobs": np.uint8(2),
    }
    assert text(lm, **options) == plain
    assert len(lm.generate(PROMPT, max_new_tokens=1, draft=None, n=np.int32(2))) == 2


def test_a_seed_of_none_is_drawn_from_torchs_generator(lm: hb.LM) -> None:
    torch.manual_seed(5)
    first, second = (text(lm, temperature=2.0, seed=None) for _ in range(2))
    assert first != second
    torch.manual_seed(5)
    assert text(lm, temperature=2.0, seed=None) == first


@pytest.mark.parametrize("size", ["1MB", "0.5 MiB", 1_000_000, np.int64(1_000_000)])
def test_sizes_as_text(size: Any) -> None:
    lm = hb.LM(models.llama(), max_kv_bytes=size)
    want = 524288 if size == "0.5 MiB" else 1_000_000
    assert lm.tree.max_bytes == want


def test_penalties_are_those_of_a_warp(lm: hb.LM) -> None:
    parts = {"repetition_penalty": 1.8, "frequency_penalty": 0.4, "presence_penalty": 0.9}
    want = text(lm, warp=hb.Warp(temperature=0.0, **parts))
    assert want != text(lm)
    assert text(lm, **parts) == want
    sampled = text(lm, warp=hb.Warp(temperature=1.0, repetition_penalty=1.8), seed=2)
    assert text(lm, temperature=1.0, repetition_penalty=1.8, seed=2) == sampled


def test_a_warp_without_a_temperature_is_greedy(lm: hb.LM) -> None:
    want = text(lm, warp=hb.Warp(temperature=0.0, repetition_penalty=1.8))
    assert [text(lm, warp=hb.Warp(repetition_penalty=1.8), seed=seed) for seed in range(3)] == [want] * 3
    assert text(lm, warp=hb.Warp(top_p=0.9), seed=4) == text(lm)
    assert text(lm, warp=hb.Warp(1.0), seed=4) != text(lm)
    # By itself a warp samples.
    logits = torch.zeros(400, 8)
    tokens = hb.ops.sample(logits, hb.Warp(), positions=torch.arange(400))
    assert len(set(tokens.tolist())) == 8


def test_the_checkpoints_penalty_gives_way(lm: hb.LM) -> None:
    model = models.llama()
    model.generation_config.repetition_penalty = 1.8
    other = hb.LM(model)
    assert text(other) == text(lm, repetition_penalty=1.8)
    assert text(other, repetition_penalty=1.0) == text(lm)
    assert text(other, presence_penalty=0.5) == text(lm, repetition_penalty=1.8, presence_penalty=0.5)
    model.generation_config.exponential_decay_length_penalty = (2, 1.5)
    with pytest.raises(ArgumentError, match="which comes after it"):
        text(other, repetition_penalty=1.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draft": "sufix"}, "draft is 'sufix', expected a source"),
        ({"draft": hb.spec.Suffix}, "expected a source of hornbeam.spec such as"),
        ({"draft": 3}, "draft is 3, expected"),
        ({"draft": {"draft": None}}, "a recipe of hornbeam.recipes is given as"),
        ({"keep": "snapkv"}, "keep is 'snapkv', expected a hornbeam.keep.Recipe or one of"),
        ({"keep": hb.recipes.snap_kv}, r"the function snap_kv, expected what it gives: hb.recipes.snap_kv\("),
        ({"keep": "sparse_mm"}, "keep is 'sparse_mm'"),
        ({"keep": 0.5}, "keep is 0.5, expected a recipe"),
        ({"length": 5, "draft": "suffix"}, r"length is 5, expected a stop rule .* hb.spec.Fixed"),
        ({"length": hb.spec.MeasuredGain, "draft": "suffix"}, "expected a stop rule"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5, expected a whole number, 0 or more"),
        ({"max_new_tokens": True}, "max_new_tokens is True, expected a whole number"),
        ({"max_new_tokens": None}, "max_new_tokens is None, expected a whole number"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1, expected 0 or more"),
        ({"seed": -1}, "seed is -1, expected 0 to 18446744073709551615"),
        ({"seed": "x"}, "seed is 'x', expected a whole number"),
        ({"seed": 2**64}, "expected 0 to"),
        ({"temperature": "hot"}, "temperature is 'hot', expected a number"),
        ({"temperature": None}, "temperature is None, expected a number"),
        ({"warp": 0.7}, "warp is 0.7, expected a hornbeam.Warp"),
        ({"warp": hb.Warp(0.5), "temperature": 0.7}, "temperature is 0.7 beside warp"),
        ({"warp": hb.Warp(0.5), "top_k": 5}, "top_k is 5 beside warp"),
        ({"stop": [5]}, "stop holds 5, expected strings"),
        ({"stopping_criterion": "x"}, "stopping_criterion is 'x', expected a callable"),
        ({"trace": "out.html"}, "trace is 'out.html', expected a hornbeam.Trace"),
        ({"logprobs": 1.5}, "logprobs is 1.5, expected a whole number"),
        ({"n": 0}, "n is 0, expected 1 or more"),
        ({"logits_processor": lambda ids, scores: scores[0]}, r"gave \[256\], expected logits \[1, 256\]"),
        ({"logits_processor": 5}, "logits_processor is 5, expected a callable"),
    ],
)
def test_messages(lm: hb.LM, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ArgumentError, hb.errors.ShapeError), match=message):
        text(lm, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_kv_bytes": "lots"}, "max_kv_bytes is 'lots', expected bytes as an int or as text such as"),
        ({"max_kv_bytes": "30%"}, "max_kv_bytes is '30%', expected bytes"),
        ({"max_kv_bytes": 0}, "max_kv_bytes is 0, expected 1 or more"),
        ({"max_kv_bytes": 1.5e9}, "max_kv_bytes is 1500000000.0, expected a whole number"),
        ({"prefill_rows": 0}, "prefill_rows is 0, expected 1 or more"),
        ({"page_tokens": "16"}, "page_tokens is '16', expected a whole number"),
    ],
)
def test_messages_of_the_constructor(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        hb.LM(models.llama(), **options)


def test_reprs_are_short_and_say_what_there_is() -> None:
    lm = hb.LM(models.llama(), models.byte_tokenizer(), max_kv_bytes="2MB")
    assert repr(lm).startswith("<LM LlamaForCausalLM, 0.")
    assert "context of 512 tokens" in repr(lm)
    assert "of 2 MB of pages>" in repr(lm)
    assert "<td>LlamaForCausalLM</td>" in lm._repr_html_()
    out = lm.generate("<b>bold</b>", max_new_tokens=200, draft=None)
    assert len(repr(out)) < 500
    assert repr(out).startswith("<Generation ")
    assert "200 tokens, finish_reason length" in repr(out)
    out.text = "<script>x</script>\nline"
    assert "&lt;script&gt;x&lt;/script&gt;\nline</div>" in out._repr_html_()
