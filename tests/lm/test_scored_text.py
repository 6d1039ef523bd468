"""Continuations are scored as they stand in the text, and ends are given in any way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError
from tests import models


class Words:
    """Splits a text before its spaces, as byte-pair tokenizers do: a space begins a word."""

    def __init__(self):
        self.known = {}

    def __call__(self, text, add_special_tokens=True):
        words = [word for word in text.replace(" ", "\0 ").split("\0") if word]
        ids = [self.known.setdefault(word, 2 + len(self.known)) for word in words]
        return {"input_ids": [1, *ids] if add_special_tokens else ids}

    def decode(self, ids, **options):
        return " ".join(map(str, ids))

    def get_vocab(self):
        return self.known


@pytest.fixture
def lm():
    return hb.LM(models.llama(), Words())


def test_spaces_at_the_end_belong_to_the_continuation(lm):
    moved, plain = lm.score("the capital is ", ["Paris", "Rome now"]), lm.score("the capital is", [" Paris"])
    assert moved[0].token_logprobs == pytest.approx(plain[0].token_logprobs, abs=1e-4)
    assert len(moved[1].token_logprobs) == 2
    whole = lm.tokenizer("the capital is Paris")["input_ids"]
    ids = lm.score(whole[:-1], [whole[-1:]])
    assert plain[0].token_logprobs == pytest.approx(ids[0].token_logprobs, abs=1e-4)


def test_a_list_of_texts(lm):
    both = lm.score(["one ", "two"], [["word"], [" word", " words more"]])
    assert both[0][0].total == pytest.approx(lm.score("one", [" word"])[0].total, abs=1e-4)
    assert [len(found.token_logprobs) for found in both[1]] == [1, 2]


def test_a_prompt_of_spaces_alone_stays(lm):
    assert len(lm.score(" ", ["word"])[0].token_logprobs) == 1


def test_a_continuation_that_joins_the_last_token(lm):
    """It adds no token of its own there: it is scored as a text by itself."""
    assert len(lm.score("a long wor", ["d"])[0].token_logprobs) == 1


@pytest.mark.parametrize("bad", ["word", ""])
def test_a_text_in_place_of_a_list(lm, bad):
    with pytest.raises(ArgumentError, match="expected a list of texts or token ids"):
        lm.score("prompt", bad)
    with pytest.raises(ArgumentError, match="continuation is empty"):
        lm.score("prompt", [""])


@pytest.mark.parametrize(
    "kind", [int, lambda t: [t], lambda t: {t}, torch.tensor, lambda t: torch.tensor([[t]]), np.int64, str]
)
def test_ends(lm, kind):
    prompt = models.prompt(20, 3)[0].tolist()
    text = lm.generate(prompt, max_new_tokens=9, draft=None, eos_token_id=[]).token_ids
    end = text[3]
    lm.tokenizer.known[str(end)] = end
    out = lm.generate(prompt, max_new_tokens=9, draft=None, eos_token_id=kind(end))
    assert out.token_ids == text[: text.index(end) + 1]
    assert out.finish_reason == "eos"


@pytest.mark.parametrize("bad", ["no such token", 1.5, [2.5], object()])
def test_ends_that_are_none(lm, bad):
    with pytest.raises(ArgumentError, match="eos_token_id"):
        lm.generate([1, 2], max_new_tokens=1, eos_token_id=bad)
