"""How workers come by their model: each loads it from a path, or takes it from Ray's object store.

In the object store the weights lie once a machine, and all workers there read them in place.
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hornbeam.errors import ArgumentError
from hornbeam.lm import LM

__all__ = ["Shipment", "shipment"]


@dataclass(frozen=True)
class Shipment:
    """A model on its way to the workers.

    Attributes:
        make: gives the :class:`hornbeam.LM`, if that is not ``packed``.
        packed: a model, its tokenizer and what it was set up with, but for the numbers of its weights.
        weights: the numbers, each an array of bytes, which pickle's protocol 5 carries out of band.
    """

    make: Callable[[], LM] | None = None
    packed: bytes = b""
    weights: list[np.ndarray] = field(default_factory=list)

    def open(self) -> LM:
        """The model. Its weights are read where they lie, and are not to be written to."""
        if self.make is not None:
            lm = self.make()
            if not isinstance(lm, LM):
                raise ArgumentError(f"model gave {lm!r}, expected a hornbeam.LM")
            return lm
        model, tokenizer, options = _Unpickler(io.BytesIO(self.packed), self.weights).load()
        return LM(model, tokenizer, **options)


def shipment(model: Any, load: Mapping[str, Any]) -> Shipment:
    """What is sent to the workers.

    Args:
        model: a path or name, a function without arguments that gives an :class:`hornbeam.LM`, or one.
        load: keywords of :meth:`hornbeam.LM.from_pretrained`, for a path or name.

    Raises:
        ArgumentError: it is none of these, or lies on a device.
    """
    if isinstance(model, (str, os.PathLike)):
        return Shipment(make=_Loads(os.fspath(model), dict(load)))
    if load:
        raise ArgumentError(f"load is {dict(load)!r} beside a model, expected it with a path or name alone")
    if isinstance(model, LM):
        return _packed(model)
    if callable(model):
        return Shipment(make=model)
    raise ArgumentError(
        f"model is {model!r}, expected a path or name, a hornbeam.LM, or a function that gives one"
    )


@dataclass(frozen=True)
class _Loads:
    """Loads a model by its path or name."""

    name: str
    load: dict[str, Any]

    def __call__(self) -> LM:
        return LM.from_pretrained(self.name, **self.load)


def _packed(lm: LM) -> Shipment:
    from ray import cloudpickle

    device = lm.engine.runner.shape.device
    if torch.device(device).type != "cpu":
        raise ArgumentError(
            f"model is on {device}, expected one on the CPU, or a path with load={{'device': '{device}'}}"
        )
    weights: list[np.ndarray] = []
    file = io.BytesIO()

    class Pickler(cloudpickle.Pickler):
        """Leaves the numbers of tensors to ``weights``."""

        def persistent_id(self, value: Any) -> Any:
            if type(value) is not torch.Tensor or value.layout != torch.strided or value.is_meta:
                return None
            weights.append(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
            return len(weights) - 1, value.dtype, tuple(value.shape)

        def reducer_override(self, value: Any) -> Any:
            if type(value) is torch.nn.Parameter:
                return _parameter, (value.data, value.requires_grad)
            return super().reducer_override(value)

    Pickler(file, protocol=5).dump((lm.model, lm.tokenizer, lm.engine.settings))
    return Shipment(packed=file.getvalue(), weights=weights)


def _parameter(data: torch.Tensor, requires_grad: bool) -> torch.nn.Parameter:
    return torch.nn.Parameter(data, requires_grad)


class _Unpickler(pickle.Unpickler):
    """Puts the numbers back, without a copy."""

    def __init__(self, file: io.BytesIO, weights: list[np.ndarray]) -> None:
        super().__init__(file)
        self._weights = weights

    def persistent_load(self, value: Any) -> torch.Tensor:
        number, dtype, shape = value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # shared memory is not to be written to, and is not
            return torch.from_numpy(self._weights[number]).view(dtype).reshape(shape)
