"""Texts under llguidance's grammars: every one fits, with drafts and without, and the same."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.integrations import llguidance
from hornbeam.speculation import Fixed, LayerSkip
from tests import models

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "is_capital": {"type": "boolean"}},
    "required": ["city", "is_capital"],
    "additionalProperties": False,
}
#: The byte 0 ends a text.
END = 188


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    model = models.llama(layers=3)
    model.generation_config.eos_token_id = END
    return hb.LM(model, models.byte_tokenizer())


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.3, "seed": 2}])
def test_texts_fit(lm: hb.LM, sampling: dict[str, Any]) -> None:
    made = {
        "json": llguidance.json_schema(lm, SCHEMA),
        "regex": llguidance.regex(lm, "[a-c]{2,5}(xy)?"),
        "lark": llguidance.lark(lm, 'start: "a" start "b" | "ab"'),
    }
    for name, grammar in made.items():
        options = {"logits_processor": grammar, "max_new_tokens": 120, **sampling}
        plain = lm.generate(["one", "two"], draft=None, n=2, **options)
        skipping = {"draft": LayerSkip(exit_layer=2), "length": Fixed(4)}
        assert same(plain, lm.generate(["one", "two"], n=2, **options))
        assert same(plain, lm.generate(["one", "two"], n=2, **skipping, **options))
        for out in (out for group in plain for out in group):
            text = out.text.removesuffix("\0")
            if out.finish_reason != "eos":
                continue
            if name == "json":
                assert set(json.loads(text)) == {"city", "is_capital"}
            elif name == "regex":
                assert re.fullmatch("[a-c]{2,5}(xy)?", text)
            else:
                assert text == "a" * (len(text) // 2) + "b" * (len(text) // 2)
        assert any(out.finish_reason == "eos" for group in plain for out in group) or name == "lark"


def same(a: list[Any], b: list[Any]) -> bool:
    return [[out.token_ids for out in g] for g in a] == [[out.token_ids for out in g] for g in b]


@pytest.mark.model
def test_a_head_that_knows_none_of_the_tokens_is_silent(default_model: tuple[Any, Any]) -> None:
    """The vocabulary of the shipped head is smaller than the model's: where all that a grammar allows lies
    outside of it, nothing is drafted."""
    lm = hb.LM(*default_model)
    chat = [{"role": "user", "content": "Describe Paris as JSON with city and is_capital."}]
    options: dict[str, Any] = {"logits_processor": llguidance.json_schema(lm, SCHEMA), "max_new_tokens": 40}
    plain = lm.generate(chat, draft=None, **options)
    for draft in ("head", "auto"):
        drafted = lm.generate(chat, draft=draft, length=Fixed(4), **options)
        assert drafted.token_ids == plain.token_ids
    assert json.loads(plain.text)


def test_what_cannot_be_kept_to_is_refused(lm: hb.LM) -> None:
    with pytest.raises(ArgumentError, match="schema cannot be read"):
        llguidance.json_schema(lm, {"type": "colour"})
    with pytest.raises(ArgumentError, match="regex cannot be read"):
        llguidance.regex(lm, "(a")
    with pytest.raises(ArgumentError, match="grammar cannot be read"):
        llguidance.lark(lm, "start: nothing")
    with pytest.raises(ArgumentError, match="no tokenizer"):
        llguidance.json_object(hb.LM(lm.model))
    with pytest.raises(ArgumentError, match="no end token"):
        llguidance.json_object(hb.LM(models.llama(), models.byte_tokenizer()))
