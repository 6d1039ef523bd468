"""What a prompt may be: whatever a tokenizer gives, padded or not, and chats that end as they may."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

import hornbeam as hb
from hornbeam.errors import ArgumentError
from tests import models

ONE, TWO = models.prompt(7, 1)[0].tolist(), models.prompt(4, 2)[0].tolist()
OPTIONS: dict[str, Any] = {"max_new_tokens": 5, "draft": None}


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama(), models.byte_tokenizer())


def texts(out: Any) -> list[list[int]]:
    return [one.token_ids for one in (out if isinstance(out, list) else [out])]


def padded(side: str, pad: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    width = max(len(ONE), len(TWO))
    ids, mask = [], []
    for row in (ONE, TWO):
        fill = [pad] * (width - len(row))
        ids.append(fill + row if side == "left" else row + fill)
        mask.append([0] * len(fill) + [1] * len(row) if side == "left" else [1] * len(row) + [0] * len(fill))
    return ids, mask


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor], ids=["lists", "array", "tensor"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mask_takes_padding_off(lm: hb.LM, side: str, kind: Any) -> None:
    ids, mask = padded(side, pad=9)
    want = texts(lm.generate([ONE, TWO], **OPTIONS))
    assert texts(lm.generate(kind(ids), attention_mask=kind(mask), **OPTIONS)) == want
    encoding = {"input_ids": kind(ids), "attention_mask": kind(mask), "token_type_ids": kind(mask) * 0}
    if kind is list:
        del encoding["token_type_ids"]
    assert texts(lm.generate(encoding, **OPTIONS)) == want


def test_what_a_tokenizer_gives(lm: hb.LM) -> None:
    tokenizer = models.byte_tokenizer()
    tokenizer.pad_token = "!"
    words = ["some words", "more"]
    want = texts(lm.generate(words, **OPTIONS))
    for options in ({}, {"padding": True, "return_tensors": "pt"}, {"padding": True, "return_tensors": "np"}):
        assert texts(lm.generate(tokenizer(words, **options), **OPTIONS)) == want
    single = tokenizer(words[0])
    assert lm.generate(single, **OPTIONS).token_ids == want[0]
    assert texts(lm.generate([single, tokenizer(words[1], return_tensors="pt")], **OPTIONS)) == want
    assert lm.engine.submit(tokenizer(words[0], return_tensors="pt"), **OPTIONS).result().token_ids == want[0]


def test_padding_without_a_mask_is_known_by_its_token(lm: hb.LM) -> None:
    ids = torch.tensor(padded("left")[0])
    want = texts(lm.generate([ONE, TWO], **OPTIONS))
    assert texts(lm.generate(ids, **OPTIONS)) == want
    assert texts(lm.generate(ids.numpy(), **OPTIONS)) == want
    plain = lm.model.generate(ids, max_new_tokens=5, do_sample=False)
    assert plain[:, ids.shape[1] :].tolist() == want


@pytest.mark.parametrize(
    "ids",
    [np.array(ONE), np.array(ONE, np.int32), torch.tensor(ONE), list(np.array(ONE)), list(torch.tensor(ONE))],
    ids=["array", "int32", "tensor", "numpy integers", "tensors"],
)
def test_ids_of_any_kind(lm: hb.LM, ids: Any) -> None:
    assert lm.generate(ids, **OPTIONS).token_ids == lm.generate(ONE, **OPTIONS).token_ids
    assert texts(lm.generate([ids, TWO], **OPTIONS)) == texts(lm.generate([ONE, TWO], **OPTIONS))


@pytest.mark.parametrize(
    ("prompt", "mask", "message"),
    [
        ([[5, 6, 7]], [[1, 0, 1]], "prompt 0 has zeros between ones"),
        ([[5, 6, 7]], [[1, 1]], "prompt 0 does not have its length, 3"),
        ([[5, 6, 7]], [[1, 2, 1]], "expected zeros and ones"),
        ([[5, 6], [7, 8]], [[1, 1]], "has 1 rows, expected one a prompt, 2"),
        ([[5, 6]], [[0, 0]], "prompt is empty"),
        ("text", [1, 1], "given for a text"),
        (torch.tensor([[5, 0, 6]]), None, "padding token 0 within a text"),
        (torch.zeros(1, 2, 3, dtype=torch.int64), None, r"shape \[1, 2, 3\], expected \[n\] or \[B, n\]"),
        (torch.tensor([[1.0, 2.0]]), None, "float32, expected integers"),
        ([1, 2.5], None, "float32, expected integers"),
        ([1, "a"], None, "not made of integers"),
        ([True, False], None, "bool, expected integers"),
        ({"inputs_embeds": [[1.0]]}, None, "dict of 'inputs_embeds', expected input_ids"),
        ({"input_ids": [1], "pixel_values": 3}, None, "has pixel_values, expected input_ids"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1, 1]]}, [[1, 1]], "attention_mask is given twice"),
        ({1, 2}, None, "prompt is a set, expected text"),
        ([{1, 2}], None, "expected text, token ids or chat messages"),
    ],
)
def test_what_is_no_prompt_is_refused(lm: hb.LM, prompt: Any, mask: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        lm.generate(prompt, attention_mask=mask, **OPTIONS)


def test_an_open_answer_is_gone_on_with(lm: hb.LM) -> None:
    chat = [{"role": "user", "content": "hm"}, {"role": "assistant", "content": "well, "}]
    want = lm.generate("<user>hm<assistant>well, ", **OPTIONS)
    assert lm.generate(chat, **OPTIONS).token_ids == want.token_ids
    closed = [*chat, {"role": "user", "content": "x"}]
    rendered = lm.generate("<user>hm<assistant>well, <user>x<assistant>", **OPTIONS)
    assert lm.generate(closed, **OPTIONS).token_ids == rendered.token_ids


def test_a_chat_goes_on_after_an_open_answer(lm: hb.LM) -> None:
    chat = [{"role": "user", "content": "hm"}, {"role": "assistant", "content": "well, "}]
    request = lm.engine.submit(chat, **OPTIONS)
    said = request.result()
    request.extend([{"role": "user", "content": "so?"}])
    text = lm.tokenizer.decode(request.prompt)
    assert text == f"<user>hm<assistant>well, {said.text}<user>so?<assistant>"
    assert request.messages[1]["content"] == f"well, {said.text}"


def test_a_templated_text_begins_once() -> None:
    tokenizer = models.byte_tokenizer()
    tokenizer.bos_token = "^"
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="^ $A", pair="^ $A $B", special_tokens=[("^", begin)]
    )
    lm = hb.LM(models.llama(), tokenizer)
    assert tokenizer("^a")["input_ids"][:2] == [begin, begin]

    def read(prompt: Any) -> list[int]:
        return lm.engine.submit(prompt, **OPTIONS).prompt

    rest = tokenizer("a", add_special_tokens=False)["input_ids"]
    assert read("a") == read("^a") == [begin, *rest]
    assert read("^^a") == [begin, begin, *rest]
    assert lm.score("^a", ["b"])[0].total == pytest.approx(lm.score("a", ["b"])[0].total, abs=1e-5)


def test_templates_that_are_missing_or_refuse(lm: hb.LM) -> None:
    chat = [{"role": "user", "content": "hm"}]
    tokenizer = models.byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(
        ArgumentError, match="the tokenizer has no chat template; give text or token ids, or set"
    ):
        hb.LM(models.llama(), tokenizer).generate(chat, **OPTIONS)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ArgumentError, match="refuses the messages: roles must alternate"):
        hb.LM(models.llama(), tokenizer).generate(chat, **OPTIONS)
    with pytest.raises(ArgumentError, match="this LM has no tokenizer"):
        hb.LM(models.llama()).generate(chat, **OPTIONS)


def test_an_empty_prompt_is_scored_after_the_first_token() -> None:
    model = models.llama()
    lm = hb.LM(model, models.byte_tokenizer())
    with pytest.raises(ArgumentError, match="no token that begins texts"):
        lm.score("", ["some"])
    model.config.eos_token_id = 17
    want = lm.score([17], ["some"])[0].token_logprobs
    assert lm.score("", ["some"])[0].token_logprobs == pytest.approx(want, abs=1e-5)
    model.generation_config.bos_token_id = 23
    want = lm.score([23], ["some"])[0].token_logprobs
    for empty in ("", [], torch.empty(0, dtype=torch.int64)):
        assert lm.score(empty, ["some"])[0].token_logprobs == pytest.approx(want, abs=1e-5)
    both = lm.score(["", "a"], [["some"], ["b"]])
    assert both[0][0].token_logprobs == pytest.approx(want, abs=1e-5)
    with pytest.raises(ArgumentError, match="prompt is empty"):
        lm.generate("", **OPTIONS)
