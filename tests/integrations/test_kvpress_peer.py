"""Recipes made of kvpress's own presses keep what kvpress keeps, on tiny models.

They run where kvpress is installed (``pip install --no-deps kvpress==0.5.5``, and what its import asks for);
the other tests of presses need only objects of the same form. kvpress's side is its ``compress``, called with
what the attention modules of a plain forward pass were given. Ties are left out: no token of the prompt comes
twice, no press gives its highest score to more keys than may stay, and LagKV scores across its parts.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

import hornbeam as hb
from hornbeam.errors import ArgumentError
from tests import models
from tests.lm.kept import Spy

kvpress = pytest.importorskip("kvpress")

LENGTH = 120
PROMPT = 1 + torch.randperm(255, generator=torch.Generator().manual_seed(5))[None, :LENGTH]
MODELS = {"llama": models.llama, "qwen3": models.qwen3, "mistral": models.mistral}
PRESSES: dict[str, Any] = {
    "knorm": lambda ratio: kvpress.KnormPress(ratio),
    "expected": lambda ratio: kvpress.ExpectedAttentionPress(ratio),
    "streaming": lambda ratio: kvpress.StreamingLLMPress(ratio),
    "snap": lambda ratio: kvpress.SnapKVPress(ratio, window_size=8),
    "tova": lambda ratio: kvpress.TOVAPress(ratio),
    "lag": lambda ratio: kvpress.LagKVPress(ratio, n_sink=2, lag_size=4, cross_scoring=True),
    "keydiff": lambda ratio: kvpress.KeyDiffPress(ratio),
    "cur": lambda ratio: kvpress.CURPress(ratio),
    "critical": lambda ratio: kvpress.CriticalKVPress(kvpress.KnormPress(ratio)),
    "pyramid": lambda ratio: kvpress.PyramidKVPress(ratio, window_size=8),
    "chunks": lambda ratio: kvpress.ChunkKVPress(kvpress.SnapKVPress(ratio, window_size=8), chunk_length=10),
    "chunked": lambda ratio: kvpress.ChunkPress(kvpress.KnormPress(ratio), chunk_length=50),
    "blocks": lambda ratio: kvpress.BlockPress(kvpress.KnormPress(ratio), block_size=40),
    "ada": lambda ratio: kvpress.AdaKVPress(kvpress.SnapKVPress(ratio, window_size=8)),
    "lazy": lambda ratio: kvpress.SimLayerKVPress(lazy_threshold=ratio, n_initial=2, n_recent=9, n_last=1),
}


class Seen:
    """What a plain forward pass gave to the attention modules, and the keys that it cached."""

    def __init__(self, model: Any, tokens: torch.Tensor) -> None:
        self.modules = [layer.self_attn for layer in model.model.layers]
        self.inputs: list[dict[str, Any]] = []
        hooks = [
            module.register_forward_pre_hook(lambda _, __, given: self.inputs.append(given), with_kwargs=True)
            for module in self.modules
        ]
        cache = DynamicCache()
        with torch.inference_mode():
            model(tokens, past_key_values=cache)
        for hook in hooks:
            hook.remove()
        self.keys = [layer.keys for layer in cache.layers]
        self.values = [layer.values for layer in cache.layers]

    def kept(self, press: Any, rotary: Any) -> list[set[int]]:
        """The positions that a press leaves to each plane."""
        planes = []
        for module, given, keys, values in zip(
            self.modules, self.inputs, self.keys, self.values, strict=True
        ):
            module.rotary_emb = rotary
            module.masked_key_indices = None
            with torch.inference_mode():
                left, _ = press.compress(module, given["hidden_states"], keys, values, None, given)
            for head in range(keys.shape[1]):
                same = (left[0, head][:, None] == keys[0, head]).all(-1)
                assert bool((same.sum(1) == 1).all()), "two keys of a plane are alike"
                planes.append(set(same.nonzero()[:, 1].tolist()))
            if module.masked_key_indices is not None:
                for _, head, place in zip(*(x.tolist() for x in module.masked_key_indices), strict=True):
                    planes[head - keys.shape[1]].discard(place)
            del module.rotary_emb, module.masked_key_indices
        return planes


@pytest.fixture(scope="module")
def seen():
    found: dict[str, Any] = {}

    def of(name: str) -> Any:
        if name not in found:
            model = MODELS[name]()
            model.set_attn_implementation("sdpa")  # AdaKV refuses eager attention
            found[name] = model, Seen(model, PROMPT)
        return found[name]

    return of


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("press", PRESSES)
def test_a_press_keeps_what_it_keeps_in_kvpress(seen, monkeypatch, press, name, ratio):
    model, plain = seen(name)
    theirs = plain.kept(PRESSES[press](ratio), model.model.rotary_emb)
    spy = Spy(monkeypatch)
    recipe = hb.integrations.kvpress.as_recipe(PRESSES[press](ratio))
    hb.LM(model).generate(PROMPT[0].tolist(), keep=recipe, max_new_tokens=2, draft=None)
    ours = [{place for place in plane if place < LENGTH} for plane in spy.positions()]
    assert [len(plane) for plane in ours] == [len(plane) for plane in theirs]
    assert ours == theirs


@pytest.mark.parametrize(
    "make",
    [
        lambda: kvpress.FinchPress(0.5),
        lambda: kvpress.KVzipPress(0.5),
        lambda: kvpress.PerLayerCompressionPress(kvpress.KnormPress(), [0.5, 0.5]),
        lambda: kvpress.ComposedPress([kvpress.KnormPress(0.5)]),
        lambda: kvpress.DMSPress(kvpress.KnormPress()),
    ],
)
def test_presses_that_act_otherwise_are_refused_by_name(make):
    press = make()
    with pytest.raises(ArgumentError, match=f"press is a {type(press).__name__} with a "):
        hb.integrations.kvpress.as_recipe(press)


@pytest.mark.parametrize(
    "make",
    [
        lambda: kvpress.KeyRerotationPress(kvpress.KnormPress(0.5)),
        lambda: kvpress.MergingPress(kvpress.KnormPress(0.5)),
        lambda: kvpress.ThinKPress(0.5, window_size=4),
    ],
)
def test_presses_that_change_keys_are_refused_by_name(seen, make):
    model, press = seen("llama")[0], make()
    recipe = hb.integrations.kvpress.as_recipe(press)
    with pytest.raises(ArgumentError, match=f"{type(press).__name__}.compress gave"):
        hb.LM(model).generate(PROMPT[0].tolist(), keep=recipe, max_new_tokens=2)
