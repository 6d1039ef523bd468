"""What is seen of a pass: queries and keys that give the model's own attention."""

from __future__ import annotations

import pytest
import torch

import hornbeam as hb
from hornbeam.attend import Seen
from hornbeam.errors import ArgumentError
from tests import models


def weights(seen: Seen) -> torch.Tensor:
    """Attention probabilities `[H, N, N]`."""
    keys = seen.k.repeat_interleave(len(seen.q) // len(seen.k), dim=0)
    scores = seen.scale * seen.q @ keys.transpose(1, 2)
    after = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    return scores.masked_fill(after, -torch.inf).softmax(dim=-1)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_probabilities_are_those_of_transformers(name: str) -> None:
    model = getattr(models, name)()
    tokens = models.prompt(130, 5)[0].tolist()
    found: dict[int, Seen] = {}
    lm = hb.LM(model)
    passed = hb.attend.observe(lm, tokens, lambda layer, seen: found.update({layer: seen}))
    assert (passed, list(found)) == ({}, list(range(model.config.num_hidden_layers)))
    with torch.inference_mode():
        expected = model(torch.tensor([tokens]), output_attentions=True).attentions
    for layer, seen in found.items():
        torch.testing.assert_close(weights(seen), expected[layer][0], atol=2e-5, rtol=1e-4)
        assert seen.v.shape == seen.k.shape
    assert lm.tree.stats()["branches"] == lm.tree.stats()["tokens"] == 0


def test_layers_can_be_chosen_and_those_with_a_window_are_named() -> None:
    lm, seen = hb.LM(models.gemma3()), list[int]()
    passed = hb.attend.observe(lm, range(3, 33), lambda layer, _: seen.append(layer), layers=[1, 2])
    assert (passed, seen) == ({1: "a window of 8 tokens"}, [2])
    seen.clear()
    passed = hb.attend.observe(lm, range(3, 8), lambda layer, _: seen.append(layer), layers=[1, 2])
    assert (passed, seen) == ({}, [1, 2]), "a window that holds the text is none"
    passed = hb.attend.observe(hb.LM(models.gemma2()), [3, 4], lambda layer, _: seen.append(layer))
    assert set(passed.values()) == {"a cap on its scores"}


def test_what_cannot_be_observed_is_refused() -> None:
    lm = hb.LM(models.llama())
    with pytest.raises(ArgumentError, match="the text has no tokens"):
        hb.attend.observe(lm, [], lambda *_: None)
    with pytest.raises(ArgumentError, match="layer is 2, expected 0 to 1"):
        hb.attend.observe(lm, [3], lambda *_: None, layers=[0, 2])


def test_an_error_of_the_caller_leaves_nothing_open() -> None:
    lm = hb.LM(models.llama())

    def fail(layer: int, seen: Seen) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        hb.attend.observe(lm, [3, 4, 5], fail)
    assert not lm.tree.has_open_step
    assert lm.generate([3, 4, 5], max_new_tokens=2).token_ids
