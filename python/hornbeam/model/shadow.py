"""A second tree of modules over a model's own weights, for hornbeam's passes alone.

A forward pass over pages needs another attention function, other linear layers, at times other
forwards or hooks, and evaluation mode. Set on the user's modules, any of these is seen by a pass that
another thread makes meanwhile, and stays behind when an interrupt comes at the wrong moment. So our passes
run on copies: parameters are shared, everything that says how to run is the copy's own.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch.nn import Module

from hornbeam.errors import UnsupportedModel

__all__ = ["Shadow", "is_config"]

# The tables of a module's hooks: those that are called in a forward pass, and those that say how.
_CALLED = ("_forward_hooks", "_forward_pre_hooks")
_HOOK_TABLES = (
    *_CALLED,
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)

# What is copied otherwise, or not at all.
_OTHERWISE = frozenset(
    {"_parameters", "_buffers", "_modules", "training", "_compiled_call_impl", *_HOOK_TABLES}
)

_CONTAINERS = (list, tuple, set, dict, OrderedDict)

# How deep closures and containers are searched for modules.
_DEPTH = 8


class Shadow:
    """Copies of all modules of a model.

    A copy has the class of its original and its parameters (the very table, so that an exchanged one is
    seen), and tables of its own for submodules, buffers and hooks, a configuration of its own, and
    evaluation mode. Attributes are taken over as they are now; what leads to modules of the model
    (bound methods, partial calls, closures, containers) leads to the copies instead, so that a forward
    that a user put on a module goes on into the copies.

    A hook is called with the module that it was put on, and tensors that it sets there are set on the copy
    too. Hooks of torch itself (pruning, weight norms) prepare a weight for the pass, so they get the copy.

    Args:
        model: any module.
        attention: the attention implementation of the copies' configurations.
        attributes: what every copy has beside what its original has.

    Raises:
        UnsupportedModel: a forward is, or belongs to, an object that holds modules of the model, so that it
            cannot be led to the copies.
    """

    def __init__(self, model: Module, attention: str, attributes: dict[str, Any] | None = None) -> None:
        self._attention = attention
        self._attributes = attributes or {}
        self._names = {id(module): name or "the model" for name, module in model.named_modules()}
        # Modules of TorchScript have no attributes to copy, nor modes and configurations of ours.
        self._originals = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
        self._copies: dict[int, Module] = {id(m): object.__new__(m.__class__) for m in self._originals}
        self._configs: dict[int, Any] = {}
        self._functions: dict[int, FunctionType] = {}
        for module in self._originals:
            self._fill(module, self._copies[id(module)])
        #: The copy of the model.
        self.model: Any = self._copies[id(model)]

    def copy_of(self, module: Any) -> Any:
        """The copy of a module of the model; of anything else, itself."""
        return self._copies.get(id(module), module)

    def pairs(self) -> Iterator[tuple[Module, Module]]:
        """Every module of the model with its copy."""
        return zip(self._originals, self._copies.values(), strict=True)

    def renew_hooks(self) -> None:
        """Makes the hooks those of the originals as they are now."""
        for module, copy in self.pairs():
            _copy_hooks(module, copy)

    def _fill(self, module: Module, copy: Module) -> None:
        own = copy.__dict__
        for name, value in list(module.__dict__.items()):
            if name not in _OTHERWISE:
                own[name] = self._led(value)
        children = module._modules
        own["_modules"] = type(children)((name, self.copy_of(m)) for name, m in list(children.items()))
        own["_parameters"] = module._parameters
        own["_buffers"] = type(module._buffers)(module._buffers)
        own["training"] = False
        own["_compiled_call_impl"] = None
        own.update(self._attributes)
        _copy_hooks(module, copy)
        if "forward" in module.__dict__:
            self._check_forward(module, module.__dict__["forward"])

    def _check_forward(self, module: Module, forward: Any) -> None:
        """An object that a forward belongs to is not copied, so it must not hold what has a copy."""
        owner = forward.__self__ if type(forward) is MethodType else forward
        if isinstance(owner, Module | FunctionType | functools.partial):
            return
        for name, value in getattr(owner, "__dict__", {}).items():
            if self._leads(value):
                raise UnsupportedModel(
                    f"the forward of {self._names[id(module)]} belongs to a {type(owner).__name__} whose "
                    f"attribute {name} holds modules of the model, and hornbeam runs copies of the modules: "
                    "expected a function, a functools.partial or a method of a module"
                )

    # -- what leads to modules of the model --------------------------------------------------------

    def _led(self, value: Any) -> Any:
        """The value, leading to the copies."""
        kind = type(value)
        if kind in _CONTAINERS:
            return self._container(value)
        if kind is FunctionType:
            return self._function(value)
        if kind is MethodType:
            owner = self._led(value.__self__)
            return value if owner is value.__self__ else MethodType(value.__func__, owner)
        if kind is functools.partial:
            return self._partial(value)
        if isinstance(value, Module):
            return self.copy_of(value)
        return self._config(value) if is_config(value) else value

    def _leads(self, value: Any, depth: int = 0) -> bool:
        """Whether modules or configurations of the model are found through a value."""
        if isinstance(value, Module):
            return id(value) in self._copies
        if is_config(value):
            return True
        return depth < _DEPTH and any(self._leads(inner, depth + 1) for inner in _inside(value))

    def _container(self, value: Any) -> Any:
        """A container of its own: what a pass puts into it is not the original's."""
        if not value or not self._leads(value):
            return value if isinstance(value, tuple) else value.copy()
        if isinstance(value, tuple):
            return tuple(map(self._led, value))
        if isinstance(value, dict):
            return type(value)((key, self._led(item)) for key, item in value.items())
        return type(value)(map(self._led, value))

    def _config(self, config: Any) -> Any:
        """A copy with our attention, one for each configuration."""
        if id(config) not in self._configs:
            copy = self._configs[id(config)] = object.__new__(config.__class__)
            copy.__dict__.update(config.__dict__)
            for name, value in config.__dict__.items():
                if is_config(value):
                    copy.__dict__[name] = self._config(value)
            if "_attn_implementation_internal" in config.__dict__:
                copy.__dict__["_attn_implementation_internal"] = self._attention
        return self._configs[id(config)]

    def _function(self, function: FunctionType) -> FunctionType:
        if id(function) in self._functions:
            return self._functions[id(function)]
        if not self._leads(function):
            return function
        # A cell that leads nowhere stays shared: what two closures count is counted once.
        cells = tuple(
            CellType() if self._leads(_content(cell)) else cell for cell in function.__closure__ or ()
        )
        copy = FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            self._led(function.__defaults__),
            cells,
        )
        self._functions[id(function)] = copy  # a closure may hold itself
        copy.__kwdefaults__ = self._led(function.__kwdefaults__)
        copy.__dict__.update(function.__dict__)
        for old, new in zip(function.__closure__ or (), cells, strict=True):
            if new is not old:
                new.cell_contents = self._led(_content(old))
        return copy

    def _partial(self, value: functools.partial[Any]) -> functools.partial[Any]:
        if not self._leads(value):
            return value
        keywords = {name: self._led(item) for name, item in value.keywords.items()}
        copy = functools.partial(self._led(value.func), *map(self._led, value.args), **keywords)
        copy.__dict__.update(value.__dict__)
        return copy


def is_config(value: Any) -> bool:
    """Whether a value is a configuration of transformers."""
    return hasattr(type(value), "_attn_implementation") and not isinstance(value, Module)


def _inside(value: Any) -> list[Any]:
    """What a value of one of the kinds that are searched holds."""
    kind = type(value)
    if kind is FunctionType:
        cells = map(_content, value.__closure__ or ())
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if kind is MethodType:
        return [value.__self__]
    if kind is functools.partial:
        return [value.func, *value.args, *value.keywords.values()]
    if kind in _CONTAINERS:
        return list(value.values()) if isinstance(value, dict) else list(value)
    return []


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def _copy_hooks(module: Module, copy: Module) -> None:
    for name in _HOOK_TABLES:
        table = module.__dict__.get(name)
        if table is None:  # of another torch
            continue
        own: OrderedDict[int, Any] = OrderedDict(table)
        if name in _CALLED:
            for number, hook in own.items():
                own[number] = _hook(hook, module, copy)
        copy.__dict__[name] = own


def _hook(hook: Callable[..., Any], module: Module, copy: Module) -> Callable[..., Any]:
    """The hook of a module, for its copy."""
    if _home(hook) == "torch" or _home(type(hook)) == "torch":
        return hook

    def call(_copy: Module, *arguments: Any) -> Any:
        result = hook(module, *arguments)
        for name, value in module.__dict__.items():
            if isinstance(value, torch.Tensor) and copy.__dict__.get(name) is not value:
                copy.__dict__[name] = value
        return result

    return call


def _home(value: Any) -> str:
    """The package that a function or a class comes from."""
    return str(getattr(value, "__module__", None)).partition(".")[0]
