"""Passes run on copies of the modules: nothing of the user's model is switched, and what users put on it is
obeyed."""

from __future__ import annotations

import functools
import types

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import UnsupportedModel
from tests import models
from tests.heads import drawing_draft
from tests.model.passes import PROMPT, everything, ours, plain

WAYS = {
    "plain": lambda lm, model, tmp_path: ours(lm, draft=None),
    "default": lambda lm, model, tmp_path: ours(lm),
    "small": lambda lm, model, tmp_path: ours(
        lm, draft=drawing_draft("small", model, hb.spec.shape.Chain(3), tmp_path)
    ),
    "layer_skip": lambda lm, model, tmp_path: ours(
        lm,
        draft=drawing_draft("layer_skip", model, hb.spec.shape.Chain(3), tmp_path),
        length=hb.spec.Fixed(3),
    ),
    "feature_head": lambda lm, model, tmp_path: ours(
        lm,
        draft=drawing_draft("feature_head", model, hb.spec.shape.Chain(3), tmp_path),
        length=hb.spec.Fixed(3),
    ),
    "keep": lambda lm, model, tmp_path: ours(lm, keep=hb.recipes.snap_kv(budget="50%", window=8)),
    "press": lambda lm, model, tmp_path: ours(lm, keep=hb.integrations.kvpress.as_recipe(Press(), "50%")),
    "score": lambda lm, model, tmp_path: lm.score(PROMPT[0].tolist(), [[3, 4], [5]]),
}


class Press:
    """Reads what the presses of kvpress read."""

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        assert module.rotary_emb is not None
        return keys.norm(dim=-1) + hidden_states.norm(dim=-1)[:, None]


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_as_it_was_while_a_pass_runs_and_afterwards(way, training, tmp_path):
    model = models.llama()
    model.train(training)
    model.model.embed_tokens.train(not training)
    lm = hb.LM(model)
    before, during = everything(model), []
    handle = model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: during.append(everything(model)))
    hooked = everything(model)
    WAYS[way](lm, model, tmp_path)
    assert during
    assert all(seen == hooked for seen in during)
    handle.remove()
    assert everything(model) == before


def test_hooks_see_the_module_that_they_were_put_on():
    model = models.llama()
    lm, seen = hb.LM(model), []
    modules = [model.model.layers[0], model.model.layers[1].self_attn, model.lm_head]
    for module in modules:
        module.register_forward_hook(lambda own, _inputs, _output: seen.append(own))
    ours(lm, draft=None)
    assert {id(own) for own in seen} == {id(module) for module in modules}


@pytest.mark.parametrize(
    "place", ["model.layers.0", "model.layers.1.self_attn", "model.layers.0.mlp", "model", "lm_head"]
)
@pytest.mark.parametrize("way", ["closure", "partial", "method", "bound", "default"])
def test_a_forward_that_a_user_put_on_a_module_is_obeyed(place, way):
    """Whatever it leads to the module's own forward by."""
    model = models.llama()
    module = model.get_submodule(place)
    old, calls = module.forward, []

    def wrapped(inner, *inputs, **options):
        calls.append(1)
        output = inner(*inputs, **options)
        if isinstance(output, tuple):
            return (-output[0], *output[1:])
        if isinstance(output, torch.Tensor):
            return -output
        output[0].mul_(-1)
        return output

    def closure(*inputs, **options):
        return wrapped(old, *inputs, **options)

    def method(self, *inputs, **options):
        return wrapped(self.old_forward, *inputs, **options)

    def default(*inputs, inner=old, **options):
        return wrapped(inner, *inputs, **options)

    module.old_forward = old
    module.forward = {
        "closure": closure,
        "partial": functools.partial(wrapped, old),
        "method": types.MethodType(method, module),
        "bound": types.MethodType(functools.partial(method), module),
        "default": default,
    }[way]
    right = plain(model)
    lm = hb.LM(model)
    calls.clear()
    assert ours(lm) == right
    assert calls
    assert plain(model) == right
    assert right != plain(models.llama())


def test_a_forward_that_cannot_be_led_to_the_copies_is_refused():
    class Wrapper:
        def __init__(self, layer):
            self.layer, self.old = layer, layer.forward

        def __call__(self, *inputs, **options):
            return self.old(*inputs, **options)

    for forward in (lambda w: w, lambda w: w.__call__):
        model = models.llama()
        layer = model.model.layers[1]
        layer.forward = forward(Wrapper(layer))
        with pytest.raises(
            UnsupportedModel, match=r"forward of model\.layers\.1 belongs to a Wrapper whose attribute"
        ):
            hb.LM(model)


def test_closures_that_hold_themselves_end():
    model = models.llama()
    mlp = model.model.layers[0].mlp
    old = mlp.forward

    def forward(x, depth=0):
        return old(x) if depth else forward(x, 1)

    mlp.forward = forward
    assert ours(hb.LM(model)) == plain(model)


def test_accelerates_hooks_are_obeyed():
    from accelerate.hooks import AlignDevicesHook, SequentialHook, add_hook_to_module

    model = models.llama()
    right = plain(model)
    for _, module in list(model.named_modules()):
        add_hook_to_module(module, SequentialHook(AlignDevicesHook(io_same_device=True)))
    assert ours(hb.LM(model)) == right


def test_copies_have_their_own_buffers():
    """Rotary embeddings that adapt to long texts write a buffer in their forward."""
    model = models.llama()

    class Adapting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x):
            self.register_buffer("seen", self.seen + 1)
            return x

    adapting = Adapting()
    model.model.layers[0].mlp = torch.nn.Sequential(model.model.layers[0].mlp, adapting)
    lm = hb.LM(model)
    ours(lm)
    assert adapting.seen == 0
