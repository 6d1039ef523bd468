"""Presses that decide by a ``compress`` of their own, and kvpress's rounding, on objects of the same form.

``test_kvpress_peer.py`` does the same with kvpress itself, where it is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError, ShapeError
from tests import models
from tests.lm.kept import Spy

as_recipe = hb.integrations.kvpress.as_recipe
LENGTH = 40


@pytest.fixture(scope="module")
def model():
    return models.llama()


class BasePress:
    """What the presses have in common there: hooks that none of ours run."""

    def forward_hook(self, *_: Any) -> None:
        raise AssertionError("the hook is not run")

    def __call__(self, model: Any) -> None:
        raise AssertionError("the context manager is not used")


@dataclass
class ScorerPress(BasePress):
    compression_ratio: float = 0.5

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        return -keys.norm(dim=-1)

    def compress(self, module, hidden_states, keys, values, attentions, kwargs):
        raise AssertionError("the base's choice is the scores'")


class NormPress(ScorerPress):
    """Scores and nothing more."""


def best(press: Any, module: Any, keys: Any, values: Any, count: int) -> tuple[Any, Any]:
    chosen = press.score(module, None, keys, values, None, {}).topk(count, dim=-1).indices
    chosen = chosen[..., None].expand(-1, -1, -1, keys.shape[-1])
    return keys.gather(2, chosen), values.gather(2, chosen)


class LayeredPress(ScorerPress):
    """A budget of its own for each layer, as a pyramid has it, in the order of the scores."""

    def compress(self, module, hidden_states, keys, values, attentions, kwargs):
        assert hidden_states.shape[1] == keys.shape[2]
        assert kwargs["position_embeddings"] is not None
        return best(self, module, keys, values, 20 - 13 * module.layer_idx)


class HeadPress(BasePress):
    """Leaves all keys in place and masks the last ones of the first head, as AdaKV does."""

    compression_ratio = 0.25

    def compress(self, module, hidden_states, keys, values, attentions, kwargs):
        places = torch.arange(LENGTH - 9, LENGTH)
        module.masked_key_indices = (torch.zeros_like(places), torch.zeros_like(places), places)
        return keys, values


class LazyPress(BasePress):
    """Knows what it removes only once it ran."""

    @property
    def compression_ratio(self):
        raise ValueError("run it first")

    def compress(self, module, hidden_states, keys, values, attentions, kwargs):
        kept = LENGTH if module.layer_idx == 0 else 4
        return keys[:, :, :kept], values[:, :, :kept]


class TurningPress(LayeredPress):
    """Keys that it keeps are no longer those that it was given."""

    def compress(self, *arguments):
        keys, values = super().compress(*arguments)
        return keys * 2, values


class HookedPress(ScorerPress):
    """As Finch: most of what it does is in its context manager."""

    def __call__(self, model: Any) -> None:
        return None


def kept(model, monkeypatch, recipe, length=LENGTH):
    spy = Spy(monkeypatch)
    hb.LM(model).generate(models.prompt(length, 5)[0].tolist(), keep=recipe, max_new_tokens=2, draft=None)
    # The token that was generated and read is the last of every plane.
    return [[place for place in plane if place < length] for plane in spy.positions()]


def test_a_compress_of_its_own_decides(model, monkeypatch):
    """Held to our recipe of the same scores at the budgets that the press has for the layers."""
    planes = kept(model, monkeypatch, as_recipe(LayeredPress()))
    assert [len(plane) for plane in planes] == [20, 20, 7, 7]
    for layer, budget in enumerate((20, 7)):
        own = kept(model, monkeypatch, hb.recipes.knorm(budget))
        assert planes[2 * layer : 2 * layer + 2] == own[2 * layer : 2 * layer + 2]


def test_masked_heads_are_evicted(model, monkeypatch):
    planes = kept(model, monkeypatch, as_recipe(HeadPress()))
    everything, less = list(range(LENGTH)), list(range(LENGTH - 9))
    assert planes == [less, everything, less, everything]


def test_a_press_may_not_know_its_ratio_before(model, monkeypatch):
    planes = kept(model, monkeypatch, as_recipe(LazyPress()))
    assert planes == [list(range(LENGTH))] * 2 + [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(
    ("length", "ratio"), [(20, 0.9), (10, 0.9), (3, 0.9), (10, 0.3), (40, 0.35), (7, 0.999), (40, 0.0)]
)
def test_small_budgets_are_rounded_as_in_kvpress(model, monkeypatch, length, ratio):
    """In floating-point numbers, downwards, to one key at least: 10 % of 20 are one, not two."""
    planes = kept(model, monkeypatch, as_recipe(NormPress(ratio)), length)
    assert [len(plane) for plane in planes] == [max(1, int(length * (1 - ratio)))] * 4
    split = as_recipe(NormPress(ratio), split=hb.keep.AcrossHeads())
    assert sum(map(len, kept(model, monkeypatch, split, length))) == 4 * max(1, int(length * (1 - ratio)))


def test_with_a_budget_the_scores_alone_are_used(model, monkeypatch):
    planes = kept(model, monkeypatch, as_recipe(LayeredPress(), 11))
    assert planes == kept(model, monkeypatch, hb.recipes.knorm(11))


def test_what_cannot_be_run_is_refused_by_name(model):
    with pytest.raises(ArgumentError, match="press is a HookedPress with a __call__ of its own"):
        as_recipe(HookedPress())
    with pytest.raises(ArgumentError, match="press is a HeadPress without score"):
        as_recipe(HeadPress(), "30%")
    with pytest.raises(ArgumentError, match=r"split is Uniform\(\), expected None for a LayeredPress"):
        as_recipe(LayeredPress(), split=hb.keep.Uniform())
    prompt = models.prompt(LENGTH, 5)[0].tolist()
    lm = hb.LM(model)
    with pytest.raises(ArgumentError, match=r"TurningPress\.compress gave a key or value that"):
        lm.generate(prompt, keep=as_recipe(TurningPress()), max_new_tokens=2)
    press = LayeredPress()
    press.compress = lambda *_: (torch.zeros(1, 3, 2, 16),) * 2
    with pytest.raises(ShapeError, match=r"LayeredPress.compress gave \[1, 3, 2, 16\], expected \[1, 2, "):
        lm.generate(prompt, keep=as_recipe(press), max_new_tokens=2)
    assert lm.tree.stats()["branches"] == 0
