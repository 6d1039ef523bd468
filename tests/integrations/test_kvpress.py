"""Presses as recipes: objects with kvpress's signature, which is all that is asked of them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError, ShapeError
from tests import models
from tests.lm.kept import Spy


@dataclass
class NormPress:
    """Minus the norm of the key, as kvpress scores."""

    compression_ratio: float = 0.5

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        assert attentions is None
        return -keys.norm(dim=-1)


@dataclass
class WindowPress:
    """Needs what presses over windows need: hidden states, projections, rotary embeddings."""

    compression_ratio: float = 0.6
    window: int = 8

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        rows = hidden_states[:, -self.window :]
        query = module.q_proj(rows).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        cos, sin = (part[:, None, -self.window :] for part in kwargs["position_embeddings"])
        half = query.shape[-1] // 2
        query = query * cos + torch.cat([-query[..., half:], query[..., :half]], -1) * sin
        assert hidden_states.shape[1] == keys.shape[2]
        assert module.rotary_emb is not None
        heads = keys.shape[1]
        scores = query.unflatten(1, (heads, -1)) @ keys[:, :, None].transpose(-1, -2) * module.head_dim**-0.5
        n = keys.shape[2]
        later = torch.arange(n) > torch.arange(n - self.window, n)[:, None]
        mass = scores.masked_fill(later, -torch.inf).softmax(-1).mean((2, 3))
        mass[..., -self.window :] = mass.max()
        return mass


@pytest.fixture(scope="module")
def model():
    return models.llama()


@pytest.mark.parametrize("rows", [8192, 24])
@pytest.mark.parametrize(
    ("press", "own"),
    [
        (NormPress(), hb.recipes.knorm("50%")),
        (WindowPress(), hb.recipes.snap_kv("40%", window=8, kernel=1)),
    ],
)
def test_a_press_keeps_what_the_same_score_of_ours_keeps(model, monkeypatch, press, own, rows):
    spy, prompt = Spy(monkeypatch), models.prompt(90, 5)[0].tolist()
    kept = []
    for recipe in (hb.integrations.kvpress.as_recipe(press), own):
        lm = hb.LM(model, prefill_rows=rows)
        lm.dense_rows = 16
        lm.generate(prompt, keep=recipe, max_new_tokens=3, draft=None)
        kept.append(spy.positions())
    assert kept[0] == kept[1]
    assert not hasattr(model.model.layers[0].self_attn, "rotary_emb")


def test_what_is_no_press_is_refused(model):
    lm, prompt = hb.LM(model), models.prompt(20)[0].tolist()
    as_recipe = hb.integrations.kvpress.as_recipe
    with pytest.raises(ArgumentError, match=r"without score"):
        as_recipe(object())
    with pytest.raises(ArgumentError, match="budget is None"):
        as_recipe(type("Bare", (), {"score": lambda *_: None})())
    wrong = type("Wrong", (), {"score": lambda *_: torch.zeros(1, 2, 3)})()
    with pytest.raises(ShapeError, match=r"expected scores of shape \[1, 2, 20\]"):
        lm.generate(prompt, keep=as_recipe(wrong, "50%"), max_new_tokens=2)
    assert lm.tree.stats()["branches"] == 0
