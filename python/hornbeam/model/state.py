"""Whether a model is still what it was: what was computed with other weights must not be served again.

Weights change in many ways, and no single sign shows all of them: optimisers that are fused move no version
counter, nor do writes through ``.data`` or numpy; ``load_state_dict(assign=True)`` puts new parameters in
the place of the old ones; adapters are attributes of modules. Before each pass the cheap signs are
compared: identity, address and version of every parameter and buffer, submodules, hooks, forwards,
attributes of modules that are neither torch's nor transformers' own (adapters among them), and steps of
torch's optimisers. Before each call come the attributes of every module, the configurations, and some
numbers of every weight.

What none of these shows: a write through ``.data``, through numpy or by another process that changes few
numbers of a weight and none of those compared, and what modules keep elsewhere than in attributes. For
these there is :meth:`hornbeam.LM.invalidate`.
"""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Iterable, Sequence
from enum import IntEnum
from itertools import chain, repeat
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from hornbeam import _native
from hornbeam.model.attributes import Attributes, has_memory, signs_of
from hornbeam.model.shadow import Shadow, is_config

__all__ = ["Change", "ModelState", "parts_of"]

#: Numbers of a weight that are compared before each call.
SAMPLES = 16

# Bytes of a cache line, and of what torch has behind a tensor.
_LINE, _INSIDE = 64, 192

_PASS_TABLES = ("_parameters", "_buffers", "_modules")
_HOOK_TABLES = ("_forward_hooks", "_forward_pre_hooks")

# Hooks that hand hidden states out and change nothing; transformers puts them on when they are first asked
# for.
_CAPTURING = "transformers.utils.output_capturing"

_version = attrgetter("_version")
_forward = attrgetter("forward")


class Change(IntEnum):
    """How far a model changed; each takes in those before it."""

    NOTHING = 0
    #: Numbers of weights.
    WEIGHTS = 1
    #: Hooks of a forward pass.
    HOOKS = 2
    #: Modules, parameters, forwards or attributes: copies of the modules are out of date.
    STRUCTURE = 3


class ModelState:
    """What a model was when it was last read.

    Attributes:
        shadow: copies of the model's modules, made after it was read: what passes write on them is no change.
    """

    def __init__(self, model: Module) -> None:
        self.model = model
        self.shadow: Shadow | None = None
        self._written: set[tuple[int, str]] = set()
        self.read()
        _states.add(self)

    def read(self) -> None:
        """Takes everything as it is now."""
        self._has_stepped = False
        modules = list(self.model.modules())
        self._dicts = [module.__dict__ for module in modules]
        self._all_tables = _tables(self._dicts, (*_PASS_TABLES, *_HOOK_TABLES))
        self._tables, self._empty_tables = _split(_tables(self._dicts, _PASS_TABLES))
        self._read_hooks()
        self._classes = list(set(map(type, modules)))
        self._attributes = Attributes(modules, self._written)
        self._foreign = Attributes([m for m in modules if _is_foreign(type(m))], self._written)
        self._configs = _configs(self._dicts)
        self._config_signs = [signs_of(vars(config)) for config in self._configs]
        # Where each value stands: its table, once for each of them, and its name.
        self._sizes = list(map(len, self._tables))
        self._places = list(chain.from_iterable(map(repeat, self._tables, self._sizes)))
        self._names = list(chain.from_iterable(self._tables))
        values = self._values = list(map(dict.get, self._places, self._names))
        self._forwards = self._all_forwards()
        self._lengths = list(map(len, self._dicts))
        self._with_forward = [own for own in self._dicts if "forward" in own]
        self._few = self._few_forwards()
        tensors = [value for value in values if isinstance(value, Tensor)]
        self._tensors = tensors
        self._parameters = {id(tensor) for tensor in tensors if isinstance(tensor, Parameter)}
        self._kinds = list(map(_kind, tensors))
        self._with_memory = list(filter(has_memory, tensors))
        self._with_version = [tensor for tensor in tensors if not tensor.is_inference()]
        self._lines = self._lines_read()
        self._take_numbers()

    def _read_hooks(self) -> None:
        tables = _tables(self._dicts, _HOOK_TABLES)
        self._hook_tables, self._empty_hook_tables = _split(tables)
        self._hooks = _values(self._hook_tables)

    def read_numbers(self) -> None:
        """Takes the weights as they are now, after a look that found that nothing else has changed."""
        self._has_stepped = False
        self._take_numbers()

    def _take_numbers(self) -> None:
        tensors = self._tensors
        self._numbers = self._numbers_now()
        # Views made once: they are of the weights for as long as a look finds the same addresses. What
        # consists of other tensors may have exchanged those.
        self._views = [_some(tensor) for tensor in tensors if not _is_wrapper(tensor) and _is_plain(tensor)]
        self._wrappers = list(filter(_is_wrapper, tensors))
        self._samples = self._sampled()

    def look(self) -> Change:
        """What has changed, by the signs that cost least: before each pass."""
        # The pass before has filled the caches with weights: all that is read here comes from memory.
        _native.prefetch(self._lines)
        if self._have_other_values() or self._have_other_forwards():
            return Change.STRUCTURE
        if self._foreign.have_changed(self.shadow):
            return Change.STRUCTURE
        has_stepped, numbers = self._has_stepped, self._numbers_now()
        if (has_stepped or numbers != self._numbers) and list(map(_kind, self._tensors)) != self._kinds:
            return Change.STRUCTURE
        if any(self._empty_hook_tables) or _values(self._hook_tables) != self._hooks:
            before = list(filter(_acts, self._hooks))
            if list(filter(_acts, _values(_tables(self._dicts, _HOOK_TABLES)))) != before:
                return Change.HOOKS
            self._read_hooks()
        return Change.WEIGHTS if has_stepped or numbers != self._numbers else Change.NOTHING

    def look_closely(self) -> Change:
        """As :meth:`look`, with attributes of all modules, configurations, and numbers of all weights: before
        each call."""
        change = self.look()
        if change is Change.STRUCTURE:
            return change
        tables = _tables(self._dicts, (*_PASS_TABLES, *_HOOK_TABLES))
        if len(tables) != len(self._all_tables) or not all(map(is_, tables, self._all_tables)):
            return Change.STRUCTURE
        if self._attributes.have_changed(self.shadow):
            return Change.STRUCTURE
        if [signs_of(vars(config)) for config in self._configs] != self._config_signs:
            return Change.STRUCTURE
        if change is Change.NOTHING and not all(map(torch.equal, self._sampled(), self._samples)):
            return Change.WEIGHTS
        return change

    def note_step(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser has made a step."""
        stepped = (id(parameter) for group in optimizer.param_groups for parameter in group["params"])
        if not self._parameters.isdisjoint(stepped):
            self._has_stepped = True

    def _sampled(self) -> list[Tensor]:
        """:data:`SAMPLES` numbers of each tensor, as bytes; one tensor for each type and device."""
        parts: dict[tuple[Any, ...], list[Tensor]] = {}
        inner = map(_some, chain.from_iterable(map(parts_of, self._wrappers)))
        for view in chain(self._views, inner):
            parts.setdefault((view.dtype, view.device), []).append(view)
        return [torch.cat(own).view(torch.uint8) for own in parts.values()]

    def _have_other_values(self) -> bool:
        """Whether a parameter, a buffer or a submodule is another one, or there are more or fewer."""
        if any(self._empty_tables) or list(map(len, self._tables)) != self._sizes:
            return True
        # Not by ``==``, which tensors answer number by number.
        return not all(map(is_, map(dict.get, self._places, self._names), self._values))

    def _lines_read(self) -> bytes:
        """The cache lines that a look reads, for :func:`hornbeam._native.prefetch`: hints, as far as
        addresses are known."""
        addresses = list(map(id, chain(self._dicts, self._all_tables, self._values)))
        for tensor in self._with_memory:
            for inside in (tensor._cdata, tensor.untyped_storage()._cdata):
                addresses += range(inside, inside + _INSIDE, _LINE)
        return array("Q", sorted({address // _LINE * _LINE for address in addresses})).tobytes()

    def _have_other_forwards(self) -> bool:
        """Whether a forward is not what it was. One that is put on an instance is one attribute more."""
        if list(map(len, self._dicts)) == self._lengths:
            return self._few_forwards() != self._few
        if self._all_forwards() != self._forwards:
            return True
        self._lengths = list(map(len, self._dicts))
        return False

    def _all_forwards(self) -> list[Any]:
        """Those of instances, then those of classes."""
        return [*map(dict.get, self._dicts, repeat("forward")), *map(_forward, self._classes)]

    def _few_forwards(self) -> list[Any]:
        """Those of instances that have one, then those of classes."""
        return [*map(dict.get, self._with_forward, repeat("forward")), *map(_forward, self._classes)]

    def _numbers_now(self) -> list[int]:
        """Addresses, then versions."""
        return [*map(Tensor.data_ptr, self._with_memory), *map(_version, self._with_version)]


#: All that are alive, for steps of optimisers.
_states: weakref.WeakSet[ModelState] = weakref.WeakSet()


def _after_step(optimizer: torch.optim.Optimizer, _arguments: Any, _options: Any) -> None:
    for state in list(_states):
        state.note_step(optimizer)


register_optimizer_step_post_hook(_after_step)


def _tables(dicts: Iterable[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    return [own[name] for own in dicts for name in names if name in own]


def _split(tables: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Those that hold something, and the empty ones, of which most are and which are looked at faster."""
    return list(filter(None, tables)), [table for table in tables if not table]


def _values(tables: Iterable[dict[str, Any]]) -> list[Any]:
    return list(chain.from_iterable(map(dict.values, tables)))


def _configs(dicts: Iterable[dict[str, Any]]) -> list[Any]:
    """The configurations that modules have, and those inside of these."""
    found: dict[int, Any] = {}
    waiting = [value for own in dicts for value in own.values() if is_config(value)]
    while waiting:
        config = waiting.pop()
        if id(config) not in found:
            found[id(config)] = config
            waiting += filter(is_config, vars(config).values())
    return list(found.values())


def _is_foreign(kind: type) -> bool:
    return kind.__module__.partition(".")[0] not in ("torch", "transformers")


def _acts(hook: Any) -> bool:
    return getattr(hook, "__module__", None) != _CAPTURING


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    strides = tensor.stride() if tensor.layout is torch.strided else None
    return tensor.dtype, tensor.shape, strides, tensor.device, tensor.layout


def _some(tensor: Tensor) -> Tensor:
    """:data:`SAMPLES` numbers of a tensor, seen where they lie."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    # An odd step does not stay in one column of a matrix.
    step = max(span // SAMPLES - 1, 0) | 1
    return tensor.detach().as_strided((min(SAMPLES, -(-span // step)),), (step,))


def _is_wrapper(tensor: Tensor) -> bool:
    return type(tensor) not in (Tensor, Parameter) and is_traceable_wrapper_subclass(tensor)


def _is_plain(tensor: Tensor) -> bool:
    return bool(has_memory(tensor) and tensor.numel()) and not tensor.is_quantized


def parts_of(tensor: Tensor) -> list[Tensor]:
    """The strided tensors that a tensor consists of."""
    if _is_wrapper(tensor):
        names, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
        return [part for name in names for part in parts_of(getattr(tensor, name))]
    return [tensor] if _is_plain(tensor) else []
