"""From tokens to text: whole characters, stop strings, and prompts that are text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.text import TextStream
from tests import models

TOKENIZER = models.byte_tokenizer()


@pytest.fixture(scope="module")
def lm():
    return hb.LM(models.llama(), TOKENIZER)


def encoded(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@given(st.text(min_size=1, max_size=30))
def test_characters_of_several_tokens_come_whole(text):
    stream = TextStream(TOKENIZER)
    shown = ""
    for token in encoded(text):
        stream.push(token)
        fresh = stream.take()
        assert "\ufffd" not in fresh or "\ufffd" in text
        shown += fresh
    stream.finish()
    assert shown + stream.take(everything=True) == text == stream.text


@given(
    st.text(alphabet="ab", max_size=30), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3)
)
def test_text_ends_before_the_first_stop_string(text, stops):
    stream = TextStream(TOKENIZER, stops)
    shown = ""
    for token in encoded(text) if text else []:
        stopped = stream.push(token)
        shown += stream.take()
        if stopped:
            break
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    # The stop string that is complete first ends the text; of those, the one that begins first.
    first = min(end for end, _ in ends) if ends else None
    expected = text[: min(at for end, at in ends if end == first)] if ends else text
    stream.finish()
    assert shown + stream.take(everything=True) == expected
    assert stream.stopped == bool(ends)


def test_half_a_character_at_the_end_is_shown_as_such():
    stream = TextStream(TOKENIZER)
    for token in encoded("é")[:1]:
        stream.push(token)
    assert stream.take() == ""
    stream.finish()
    assert stream.take(everything=True) == "\ufffd"


def test_generated_text_stops_and_streams_what_it_returns(lm):
    prompt = models.prompt(30, 2)[0].tolist()
    whole = lm.generate(prompt, max_new_tokens=60)
    stop = whole.text[20:22]
    shown = []
    out = lm.generate(
        prompt, max_new_tokens=60, stop=[stop, "never there"], stream=lambda text, *_: shown.append(text)
    )
    assert out.finish_reason == "stop"
    assert out.text == whole.text[: whole.text.index(stop)] == "".join(shown)
    assert whole.token_ids[: len(out.token_ids)] == out.token_ids
    assert len(out.token_ids) < 60


def test_text_and_chats_are_prompts(lm):
    text = lm.generate("<user>hi<assistant>", max_new_tokens=8)
    chat = lm.generate([{"role": "user", "content": "hi"}], max_new_tokens=8)
    ids = lm.generate(encoded("<user>hi<assistant>"), max_new_tokens=8)
    assert text.token_ids == chat.token_ids == ids.token_ids
    assert text.text == TOKENIZER.decode(text.token_ids)
    many = lm.generate(["<user>hi<assistant>", "other"], max_new_tokens=8)
    assert many[0].token_ids == text.token_ids
    chats = lm.generate([[{"role": "user", "content": "hi"}]], max_new_tokens=8)
    assert chats[0].token_ids == text.token_ids


def test_bad_text(lm):
    with pytest.raises(ArgumentError, match="prompt is empty"):
        lm.generate("")
    with pytest.raises(ArgumentError, match="stop is an empty string"):
        lm.generate("a", stop=[""])


def test_continuations_may_be_text(lm):
    text, ids = (lm.score("abc", [continuation])[0] for continuation in ("de", encoded("de")))
    # The second call finds the prompt in the tree, so its rows are batched otherwise.
    assert text.token_logprobs == pytest.approx(ids.token_logprobs, abs=1e-4)
