"""From tokens to text: whole characters, stop strings, and prompts that are text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.bench.bench_text import sentencepiece_tokenizer
from hornbeam.errors import ArgumentError
from hornbeam.text import TextStream, continuation
from tests import models

TOKENIZER = models.byte_tokenizer()
SPECIAL = models.byte_tokenizer(special=["<end>", "<turn>"])
TOKENIZERS = {
    "bytes": SPECIAL,
    "sentencepiece": sentencepiece_tokenizer(),
    "wordpiece": models.wordpiece_tokenizer(),
}
SPACE = TOKENIZERS["sentencepiece"]


@pytest.fixture(scope="module")
def lm():
    return hb.LM(models.llama(), TOKENIZER)


def encoded(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def ids(*pieces):
    """Tokens of the tokenizer that is like Llama 2's, by name or as a byte."""
    names = [f"<0x{piece:02X}>" if isinstance(piece, int) else piece for piece in pieces]
    return SPACE.convert_tokens_to_ids(names)


def streamed(tokenizer, tokens, *, stop=(), prompt=()):
    """What a stream shows token by token, the stream, and the tokens that it took."""
    stream = TextStream(tokenizer, stop, prompt)
    shown = []
    for count, token in enumerate(tokens, 1):
        stopped = stream.push(token)
        shown.append(stream.take())
        if stopped:
            return [*shown, stream.take(everything=True)], stream, count
    stream.finish()
    return [*shown, stream.take(everything=True)], stream, len(tokens)


@st.composite
def texts(draw):
    """A tokenizer, a prompt, and tokens that follow: many that belong together, and any."""
    tokenizer = TOKENIZERS[draw(st.sampled_from(sorted(TOKENIZERS)))]
    some = st.lists(st.integers(0, len(tokenizer) - 1), max_size=8)
    characters = st.text(alphabet="ab é€𝄞\ufffd\n", max_size=4).map(
        lambda text: (
            [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in text.encode()]
            if tokenizer is SPACE
            else tokenizer(text, add_special_tokens=False)["input_ids"]
        )
    )
    parts = st.lists(some | characters, max_size=10).map(lambda lists: [*itertools.chain(*lists)])
    return tokenizer, draw(parts), draw(parts)


@given(texts())
@example((SPACE, ids("a"), ids("▁a", "b")))
@example((SPACE, ids("<s>"), ids("▁", "▁", "▁a")))
@example((SPACE, ids("a", 0xE2), ids(0x82, 0xAC, "a")))
@example((SPACE, ids("a"), ids(0xE2, 0x82, 0xAC, 0xFF, "a", 0xE2, 0x82, 0xAC)))
@example((SPECIAL, encoded("a€")[:-1], encoded("a€")[-1:]))
@example((SPECIAL, encoded("a\ufffd"), encoded("b\ufffd")))
@example((SPECIAL, [], [256, *encoded("€")[:1], *[257] * 20, *encoded("€")[1:]]))
def test_prompt_and_text_are_the_text_of_the_whole(case):
    tokenizer, prompt, tokens = case
    shown, stream, _ = streamed(tokenizer, tokens, prompt=prompt)
    assert "".join(shown) == stream.text == continuation(tokenizer, prompt, tokens)
    before, whole = (tokenizer.decode(part, skip_special_tokens=True) for part in (prompt, prompt + tokens))
    if whole.startswith(before):
        assert before + stream.text == whole


#: None begins with a space: that may be a hidden one, see below.
STOPS = st.text(alphabet="ab é€\n.", min_size=1, max_size=4).filter(lambda stop: stop[0] != " ")


@given(texts(), st.lists(STOPS, min_size=1, max_size=3))
@example((SPACE, ids("a"), ids("b", 0x0A, "b")), ["\n"])
@example((SPACE, ids("a", 0xE2), ids(0x82, 0xAC, "a")), ["€"])
def test_text_ends_with_the_token_that_completes_a_stop_string(case, stops):
    """Told from the text after each token alone, all of it decoded anew."""
    tokenizer, prompt, tokens = case
    shown, stream, taken = streamed(tokenizer, tokens, stop=stops, prompt=prompt)
    assert "".join(shown) == stream.text
    for count in range(1, len(tokens) + 1):
        text = continuation(tokenizer, prompt, tokens[:count])
        ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
        if ends:
            assert stream.text == text[: min(ends)[1]]
            assert (stream.stopped, taken) == (True, count)
            return
    assert stream.text == continuation(tokenizer, prompt, tokens)
    assert not stream.stopped


@given(st.text(min_size=1, max_size=30))
def test_characters_of_several_tokens_come_whole(text):
    shown, stream, _ = streamed(TOKENIZER, encoded(text))
    assert all("\ufffd" not in fresh or "\ufffd" in text for fresh in shown)
    assert "".join(shown) == text == stream.text


def test_half_a_character_at_the_end_is_shown_as_such():
    shown, *_ = streamed(TOKENIZER, encoded("é")[:1])
    assert shown == ["", "\ufffd"]


def test_what_is_certain_is_shown_at_once():
    """Bytes that are no character hold nothing back but the last."""
    shown, *_ = streamed(TOKENIZER, [*encoded("a"), *[encoded("é")[0]] * 3, *encoded("bc")])
    assert shown == ["a", "", "\ufffd", "\ufffd", "\ufffdb", "c", ""]


class Counting:
    """A tokenizer that counts the tokens that it decodes."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.decoded = []

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __len__(self):
        return len(self._tokenizer)

    def decode(self, tokens, **options):
        self.decoded.append(len(tokens))
        return self._tokenizer.decode(tokens, **options)


@pytest.mark.parametrize("stop", [(), ("never there",)])
@pytest.mark.parametrize(
    ("tokenizer", "tokens"),
    [
        (TOKENIZER, encoded("é")[:1] * 3000),
        (TOKENIZER, encoded("é")[1:] * 3000),
        (SPECIAL, [256] * 3000),
        (SPACE, ids(0xFF) * 3000),
        (SPACE, ids(0xE2, 0x82, 0xAC) * 1000),
        (SPACE, ids("▁") * 3000),
        (SPACE, ids("</s>") * 3000),
        (SPACE, [len(SPACE) + 5] * 3000),
    ],
    ids=[
        "leading bytes",
        "following bytes",
        "special tokens",
        "invalid byte tokens",
        "characters of byte tokens",
        "spaces",
        "ends",
        "ids that the tokenizer lacks",
    ],
)
def test_a_token_costs_the_same_however_long_nothing_can_be_decoded(tokenizer, tokens, stop):
    counting = Counting(tokenizer)
    stream = TextStream(counting, stop)
    counting.decoded.clear()
    for token in tokens:
        stream.push(token)
        stream.take()
    stream.finish()
    assert sum(counting.decoded) <= 25 * len(tokens)
    assert sorted(counting.decoded)[:-1][-1:] <= [32], "one long run may be decoded once, at its end"


def test_the_stop_string_that_is_complete_first_ends_the_text():
    """Whatever comes in one token."""
    assert streamed(SPACE, ids("cab"), stop=["cab", "a", "b"])[1].text == "c"
    assert streamed(SPACE, ids("▁bad", "cab"), stop=["dc", "adc", "b d"])[1].text == "b"


def test_a_stop_string_may_be_a_special_token():
    end, turn = 256, 257
    tokens = [*encoded("one"), turn, *encoded("two"), end, *encoded("three")]
    assert streamed(SPECIAL, tokens)[1].text == "onetwothree"
    for stop, text, taken in [
        ("<end>", "onetwo", 8),
        ("two<end>", "one", 8),
        ("e<turn>t", "on", 5),
        ("onet", "", 5),
        ("<end>th", "onetwo", 10),
        ("<never>", "onetwothree", 13),
    ]:
        shown, stream, count = streamed(SPECIAL, tokens, stop=[stop])
        assert ("".join(shown), stream.text, count) == (text, text, taken), stop


def test_a_stop_string_may_begin_with_the_space_that_the_tokenizer_hides():
    for prompt in ([], ids("<s>"), ids("<s>", "a")):
        stream = streamed(SPACE, ids("▁bad", "cab"), stop=[" bad"], prompt=prompt)[1]
        assert (stream.stopped, stream.text) == (True, ""), prompt
    assert not streamed(SPACE, ids("cab", "b"), stop=[" cab"])[1].stopped


def test_what_may_begin_a_stop_string_is_held_back():
    shown, *_ = streamed(SPECIAL, [*encoded("a.b."), 256, *encoded("c")], stop=[".<end>d"])
    assert shown == ["a", "", ".b", "", "", ".c", ""]


def test_tokens_that_are_added_later_are_special_too():
    tokenizer = models.byte_tokenizer()
    assert streamed(tokenizer, encoded("a"), stop=["<late>"])[1].text == "a"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<late>"]})
    assert streamed(tokenizer, [*encoded("a"), 256], stop=["<late>"])[1].stopped


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


def test_generated_text_continues_that_of_the_prompt():
    """With a tokenizer that hides a leading space, streamed and not."""
    config = models.llama().config
    config.vocab_size = len(SPACE)
    lm = hb.LM(models.build(config), SPACE)
    prompt = ids("▁a", "b")
    for seed in range(5):
        options = {"max_new_tokens": 30, "temperature": 1.0, "seed": seed}
        shown = []
        out = lm.generate(prompt, **options)
        again = lm.generate(prompt, stream=lambda text, *_, shown=shown: shown.append(text), **options)
        whole = SPACE.decode(prompt + out.token_ids, skip_special_tokens=True)
        assert SPACE.decode(prompt) + out.text == whole
        assert again.text == "".join(shown) == out.text


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
