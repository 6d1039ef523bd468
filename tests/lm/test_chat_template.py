"""Chats, where the tokenizer cannot write them."""

from __future__ import annotations

from typing import Any

import pytest

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.prompt import has_chat_template
from tests import models

CHAT = [{"role": "user", "content": "hello"}]


@pytest.fixture
def lm() -> hb.LM:
    lm = hb.LM(models.llama(), models.byte_tokenizer())
    lm.tokenizer.chat_template = None
    return lm


def test_a_missing_template_is_told(lm: hb.LM) -> None:
    expected = "prompt is a chat, and the tokenizer has no chat template; give text or token ids"
    for call in (
        lambda: lm.generate(CHAT, max_new_tokens=1),
        lambda: lm.generate([CHAT, CHAT], max_new_tokens=1),
        lambda: list(lm.stream(CHAT, max_new_tokens=1)),
        lambda: lm.engine.submit(CHAT),
        lambda: lm.score(CHAT, [[1]]),
    ):
        with pytest.raises(ArgumentError, match=expected):
            call()
    assert lm.generate("hello", max_new_tokens=1).token_ids


def test_a_tokenizer_may_write_chats_in_a_way_of_its_own(lm: hb.LM) -> None:
    class Own(type(lm.tokenizer)):  # type: ignore[misc]
        def apply_chat_template(self, conversation: Any, **_: Any) -> list[int]:
            return [3, 4, len(conversation)]

    assert not has_chat_template(lm.tokenizer)
    lm.tokenizer.__class__ = Own
    assert has_chat_template(lm.tokenizer)
    assert lm.generate(CHAT, max_new_tokens=4).token_ids == lm.generate([3, 4, 1], max_new_tokens=4).token_ids
