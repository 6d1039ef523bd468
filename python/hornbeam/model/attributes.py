"""The plain attributes of modules, compared with what they were."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Collection, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from hornbeam.model.shadow import Shadow

__all__ = ["Attributes", "address_of", "has_memory", "signs_of"]

# What is compared otherwise, or says nothing of what a pass computes.
_PASSED_OVER = frozenset(
    {
        *("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "forward", "training"),
        *("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs"),
        *("_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called"),
        *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook", "_state_dict_hooks"),
        *("_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
        *("_compiled_call_impl", "gradient_checkpointing", "_gradient_checkpointing_func"),
        *("generation_config", "_hornbeam", "_output_capturing_hooks_installed"),
        *("_attn_implementation_internal", "_attn_implementation_autoset"),
    }
)
_CONTAINERS = (list, tuple, set, dict, OrderedDict)
_SCALARS = frozenset({int, float, bool, str, bytes, type(None), torch.dtype, torch.device})

# Larger containers are compared by their size.
_MOST_ITEMS = 1000


class Attributes:
    """The attributes of some modules as they were, apart from parameters, buffers, submodules and hooks.

    Compared are objects by identity, lists, dicts and sets by what they hold, and tensors by address and
    version. What passes themselves write is no change: it is known by the copy of the module having changed
    too.

    Args:
        modules: whose attributes.
        written: names that passes were seen to write, by module; shared between objects of this class.
    """

    def __init__(self, modules: Sequence[Module], written: set[tuple[int, str]]) -> None:
        self._modules = modules
        self._written = written
        self._dicts = [module.__dict__ for module in modules]
        self._read()

    def have_changed(self, shadow: Shadow | None) -> bool:
        """Whether an attribute is not what it was."""
        if self._flat() == self._known:
            return False
        changed = False
        for module, signs in zip(self._modules, self._signs, strict=True):
            own, now = module.__dict__, signs_of(module.__dict__)
            if now == signs:
                continue
            copy = own if shadow is None else shadow.copy_of(module).__dict__
            for name in now.keys() | signs.keys():
                if now.get(name) == signs.get(name) or (id(own), name) in self._written:
                    continue
                if copy is own or _sign(copy.get(name)) == signs.get(name) or _is_same(now, signs, name):
                    changed = True
                else:
                    self._written.add((id(own), name))
        if not changed:
            self._read()
        return changed

    def _read(self) -> None:
        self._signs = [signs_of(own) for own in self._dicts]
        values = [value for own in self._dicts for name, value in own.items() if name not in _PASSED_OVER]
        self._containers = [_items(value) for value in values if type(value) in _CONTAINERS]
        inside = chain(values, chain.from_iterable(self._containers))
        # Weak: a tensor that a hook left on a module must not outlive its place there.
        self._tensors = [weakref.ref(value) for value in inside if isinstance(value, Tensor)]
        self._known = self._flat()

    def _flat(self) -> list[int]:
        """All that is compared, as numbers; more than that, where modes are among the attributes."""
        return [
            *map(id, chain.from_iterable(map(dict.values, self._dicts))),
            *map(id, chain.from_iterable(self._containers)),
            *chain.from_iterable(map(_numbers, self._tensors)),
        ]


class _Same:
    """Equal to what stands for the same object."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


def signs_of(attributes: dict[str, Any]) -> dict[str, Any]:
    """What tells the attributes of an object from others of the same names."""
    return {name: _sign(value) for name, value in attributes.items() if name not in _PASSED_OVER}


def _sign(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return kind, value
    if isinstance(value, Tensor):
        return Tensor, id(value), _numbers(weakref.ref(value))
    if kind in _CONTAINERS:
        return kind, len(value), [_shallow(item) for item in _items(value)]
    return _Same(value)


def _is_same(now: dict[str, Any], before: dict[str, Any], name: str) -> bool:
    """Whether an attribute is the tensor that it was, with other numbers: a copy of the module shares it."""
    a, b = now.get(name), before.get(name)
    return isinstance(a, tuple) and isinstance(b, tuple) and a[0] is Tensor and a[:2] == b[:2]


def _shallow(value: Any) -> Any:
    return _Same(value) if type(value) in _CONTAINERS else _sign(value)


def _items(container: Any) -> Collection[Any]:
    if len(container) > _MOST_ITEMS:
        return ()
    return container.values() if isinstance(container, dict) else container


def _numbers(tensor: weakref.ref[Tensor]) -> tuple[int, int]:
    """Address and version."""
    found = tensor()
    if found is None:
        return 0, 0
    return address_of(found), 0 if found.is_inference() else found._version


def address_of(tensor: Tensor) -> int:
    """Where a tensor's memory begins; 0 for one that has none of its own, as some subclasses."""
    return tensor.data_ptr() if has_memory(tensor) else 0


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor is strided memory of its own."""
    if type(tensor) not in (Tensor, torch.nn.Parameter) and is_traceable_wrapper_subclass(tensor):
        return False
    return tensor.layout is torch.strided and tensor.device.type != "meta"
