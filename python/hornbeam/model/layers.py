"""Forward passes through some of a model's layers, and through the rest of them later.

A layer that is left out hands its input on. What runs below the first layer left out is what a whole
forward pass would compute there; a :class:`Tap` takes it, and a later pass over the same rows enters
above it (:class:`Computed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hornbeam.errors import UnsupportedModel

__all__ = ["Computed", "DecoderLayers", "Tap"]


@dataclass(frozen=True)
class Computed:
    """What the layers below ``layer`` gave for some rows.

    ``hidden``: ``[rows, hidden]``, the input of ``layer``. ``keys`` and ``values``: one
    ``[rows, kv heads, head size]`` a layer below it.
    """

    layer: int
    hidden: Tensor
    keys: list[Tensor]
    values: list[Tensor]

    def __getitem__(self, rows: Tensor) -> Computed:
        """Some of the rows, in this order."""
        return Computed(
            self.layer, self.hidden[rows], [k[rows] for k in self.keys], [v[rows] for v in self.values]
        )

    @staticmethod
    def concatenated(parts: Sequence[Computed]) -> Computed:
        """The rows of all parts, one after the other."""
        layer = parts[0].layer
        return Computed(
            layer,
            torch.cat([part.hidden for part in parts]),
            [torch.cat([part.keys[below] for part in parts]) for below in range(layer)],
            [torch.cat([part.values[below] for part in parts]) for below in range(layer)],
        )


class Tap:
    """Takes what the layers below ``layer`` compute in a forward pass that leaves ``layer`` out."""

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.hidden: Tensor | None = None
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def computed(self) -> Computed:
        """The rows of the pass, in row order."""
        assert self.hidden is not None, "the forward pass has not run"
        below = range(self.layer)
        return Computed(
            self.layer, self.hidden, [self.keys[i] for i in below], [self.values[i] for i in below]
        )


class DecoderLayers:
    """The decoder layers of copies of a transformers model's modules (:mod:`hornbeam.model.shadow`): their
    forwards are set while a pass goes through some of them.

    ``run`` makes any forward pass of the whole model; it is called once, to see what layers return.

    Raises:
        UnsupportedModel: they are not a list of modules that hand hidden states on.
    """

    def __init__(self, model: Any, num_layers: int, run: Callable[[], Any]) -> None:
        self.modules = _find(model, num_layers)
        kinds: set[type] = set()
        hooks = [
            module.register_forward_hook(lambda _module, _inputs, output: kinds.add(type(output)))
            for module in self.modules
        ]
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
        if kinds - {tuple} and not all(issubclass(kind, Tensor) for kind in kinds):
            names = sorted(kind.__name__ for kind in kinds)
            raise UnsupportedModel(f"{type(model).__name__}: layers return {names}, expected hidden states")
        self._in_tuple = kinds == {tuple}

    @contextmanager
    def switched(
        self, keep: frozenset[int], tap: Tap | None = None, entry: Computed | None = None
    ) -> Iterator[None]:
        """Runs only the layers of ``keep``, and at ``entry.layer`` goes on with its hidden states."""
        switched: list[tuple[dict[str, Any], Any]] = []
        try:
            for index, module in enumerate(self.modules):
                enters = entry is not None and index == entry.layer
                if index in keep and not enters:
                    continue
                switched.append((vars(module), vars(module).get("forward")))
                if enters:
                    assert entry is not None
                    module.forward = _entering(module.forward, entry.hidden)
                else:
                    module.forward = self._passing(tap if tap is not None and tap.layer == index else None)
            yield
        finally:
            for attributes, forward in switched:
                if forward is None:
                    attributes.pop("forward", None)
                else:
                    attributes["forward"] = forward

    def _passing(self, tap: Tap | None) -> Callable[..., Any]:
        def forward(*inputs: Any, **options: Any) -> Any:
            hidden = inputs[0] if inputs else options["hidden_states"]
            if tap is not None:
                tap.hidden = hidden[0]
            return (hidden,) if self._in_tuple else hidden

        return forward


def _entering(forward: Callable[..., Any], hidden: Tensor) -> Callable[..., Any]:
    def enter(*inputs: Any, **options: Any) -> Any:
        if inputs:
            return forward(hidden[None], *inputs[1:], **options)
        return forward(**(options | {"hidden_states": hidden[None]}))

    return enter


def _find(model: Any, num_layers: int) -> list[Any]:
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == num_layers:
            numbers = [{getattr(part, "layer_idx", None) for part in layer.modules()} for layer in module]
            if all(index in own for index, own in enumerate(numbers)):
                return list(module)
    raise UnsupportedModel(f"{type(model).__name__} has no list of {num_layers} decoder layers")
