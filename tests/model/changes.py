"""Ways in which a user changes a model, by name: each is applied to a tiny Llama and gives it other text."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

Change = Callable[[Any], Any]

CHANGES: dict[str, Change] = {}
#: Those that are undone by calling what they return.
UNDONE: dict[str, Change] = {}
#: Those that only a call looks for, not a pass.
BETWEEN_CALLS = (
    *("through_data", "through_numpy", "attribute_of_a_norm", "attribute_of_attention"),
    *("another_table_of_parameters", "tables_of_another_module"),
)


def change(function: Change) -> Change:
    CHANGES[function.__name__] = function
    return function


def undone(function: Change) -> Change:
    UNDONE[function.__name__] = function
    return change(function)


def projection(model: Any, layer: int = 0) -> nn.Linear:
    return model.model.layers[layer].mlp.up_proj


def noise(like: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(like.shape, generator=generator) * like.std()).to(like)


def _loss(model: Any) -> None:
    ids = torch.arange(20, 60)[None]
    model(input_ids=ids, labels=ids).loss.backward()


# -- the numbers of a weight ---------------------------------------------------------------------------


@change
def in_place(model):
    with torch.no_grad():
        projection(model).weight.neg_()


@change
def embedding(model):
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(-0.7)


@change
def norm_weight(model):
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight.mul_(-1)


@change
def through_data(model):
    projection(model).weight.data.neg_()


@change
def another_table_of_parameters(model):
    weight = projection(model).weight
    projection(model)._parameters = {"weight": nn.Parameter(noise(weight)), "bias": None}


@change
def tables_of_another_module(model):
    weight = projection(model).weight
    other = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    vars(projection(model)).update(vars(other))


@change
def new_data(model):
    projection(model).weight.data = -projection(model).weight.data


@change
def new_data_of_the_same_memory(model):
    weight = projection(model).weight
    weight.data = weight.data.flip(0).contiguous()


@change
def through_numpy(model):
    projection(model).weight.detach().numpy()[:] *= -1


@change
def one_row_in_place(model):
    with torch.no_grad():
        projection(model).weight[3] += 50


@change
def whole_model(model):
    with torch.no_grad():
        torch._foreach_mul_(list(model.parameters()), 0.9)


def _optimizer(kind: type, **options: Any) -> Change:
    def step(model: Any) -> None:
        optimizer = kind(model.parameters(), **options)
        _loss(model)
        optimizer.step()
        optimizer.zero_grad()

    return step


CHANGES |= {
    "sgd": _optimizer(torch.optim.SGD, lr=0.5),
    "adamw_fused": _optimizer(torch.optim.AdamW, lr=0.1, fused=True),
    "adamw_foreach": _optimizer(torch.optim.AdamW, lr=0.1, foreach=True),
    "adamw_plain": _optimizer(torch.optim.AdamW, lr=0.1, foreach=False),
}


@change
def load_state_dict(model):
    model.load_state_dict({name: -value for name, value in model.state_dict().items()})


@change
def load_state_dict_assign(model):
    model.load_state_dict({name: value * 0.8 for name, value in model.state_dict().items()}, assign=True)


@change
def swapped_tensors(model):
    weight = projection(model).weight
    torch.utils.swap_tensors(weight, nn.Parameter(noise(weight)))


@change
def inference_tensor(model):
    with torch.inference_mode():
        weight = -projection(model).weight
    projection(model).weight = nn.Parameter(weight, requires_grad=False)


@change
def bfloat16(model):
    model.bfloat16()


@change
def buffer(model):
    model.model.rotary_emb.inv_freq.mul_(2)


# -- parameters and modules ----------------------------------------------------------------------------


@change
def new_parameter(model):
    projection(model).weight = nn.Parameter(noise(projection(model).weight))


@change
def new_bias(model):
    projection(model).bias = nn.Parameter(noise(projection(model).weight[:, 0], 1) * 5)


@change
def new_module(model):
    old = projection(model)
    model.model.layers[0].mlp.up_proj = nn.Linear(old.in_features, old.out_features)


@change
def layers_exchanged(model):
    layers = model.model.layers
    layers[0].mlp, layers[1].mlp = layers[1].mlp, layers[0].mlp


@change
def pruned(model):
    prune.l1_unstructured(projection(model), "weight", 0.7)


@change
def pruned_again(model):
    prune.l1_unstructured(projection(model), "weight", 0.3)
    prune.l1_unstructured(projection(model), "weight", 0.7)
    prune.remove(projection(model), "weight")


class Negated(nn.Module):
    def forward(self, x):
        return -x


@undone
def parametrised(model):
    parametrize.register_parametrization(projection(model), "weight", Negated())
    return lambda: parametrize.remove_parametrizations(projection(model), "weight", leave_parametrized=False)


@change
def weight_norm_scaled(model):
    parametrizations.weight_norm(projection(model))
    with torch.no_grad():
        projection(model).parametrizations.weight.original0.mul_(3)


@change
def head_exchanged(model):
    model.lm_head = nn.Linear(model.lm_head.in_features, model.lm_head.out_features, bias=False)


@change
def more_tokens(model):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(300)
    with torch.no_grad():
        model.lm_head.weight[256:] = model.lm_head.weight[:44] * 1.5


# -- hooks and forwards --------------------------------------------------------------------------------


@undone
def hook(model):
    return projection(model).register_forward_hook(lambda _module, _inputs, output: -output).remove


@undone
def pre_hook_on_a_layer(model):
    def turn(_module, inputs, options):
        if inputs:
            return (inputs[0] * 0.5, *inputs[1:]), options
        return inputs, options | {"hidden_states": options["hidden_states"] * 0.5}

    return model.model.layers[1].register_forward_pre_hook(turn, with_kwargs=True).remove


@undone
def hook_that_is_an_object(model):
    return model.model.layers[0].mlp.register_forward_hook(Steer(-1.0)).remove


class Steer:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, _module, _inputs, output):
        return output * self.factor


@undone
def forward_of_a_linear(model):
    linear = projection(model)
    old = linear.forward
    linear.forward = lambda x: -old(x)
    return lambda: linear.__dict__.pop("forward")


@undone
def forward_of_a_layer(model):
    layer = model.model.layers[0]
    old = layer.forward

    def forward(*inputs, **options):
        return old(*inputs, **options) * 0.5

    layer.forward = forward
    return lambda: layer.__dict__.pop("forward")


@undone
def method_of_a_layer(model):
    def forward(self, x):
        return -type(self).forward(self, x)

    mlp = model.model.layers[1].mlp
    mlp.forward = types.MethodType(forward, mlp)
    return lambda: mlp.__dict__.pop("forward")


@undone
def forward_of_a_class(model):
    kind = type(model.model.layers[0].mlp)
    old = kind.forward
    kind.forward = lambda self, x: -old(self, x)
    return lambda: setattr(kind, "forward", old)


@undone
def accelerate_hook(model):
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    class Halve(ModelHook):
        def post_forward(self, module, output):
            return output * 0.5

    layer = model.model.layers[0]
    add_hook_to_module(layer, Halve())
    return lambda: remove_hook_from_module(layer)


@change
def attribute_of_a_norm(model):
    model.model.layers[1].input_layernorm.variance_epsilon = 1e4


@change
def attribute_of_attention(model):
    for layer in model.model.layers:
        layer.self_attn.scaling = 0.5


class Scaled(nn.Module):
    """A module of a user's own, with numbers that are no parameters."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.factor = 1.0
        self.factors = {"up": 1.0}
        self.vector = torch.ones(inner.out_features)

    def forward(self, x):
        return self.inner(x) * self.factor * self.factors["up"] * self.vector


def scaled(model: Any) -> Scaled:
    """The module, put there before the LM was made; see ``prepare``."""
    return model.model.layers[0].mlp.up_proj


@change
def own_number(model):
    scaled(model).factor = -1.0


@change
def own_number_in_a_dict(model):
    scaled(model).factors["up"] = -1.0


@change
def own_tensor_in_place(model):
    scaled(model).vector.neg_()


def prepare(name: str, model: Any) -> Any:
    """What has to be there before the LM is made."""
    if name.startswith("own_"):
        model.model.layers[0].mlp.up_proj = Scaled(projection(model))
    return model
