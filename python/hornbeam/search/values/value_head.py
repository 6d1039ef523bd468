"""A small network over the model's hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from os import PathLike
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.search.path import Path
from hornbeam.search.values.base import OpenValue, SearchFacts, Value
from hornbeam.tensor_file import read_tensors, write_tensors

__all__ = ["ValueHead"]

FORMAT, VERSION = "hornbeam.value_head", "1"

Output = Literal["sigmoid", "linear"]


class ValueHead(Value):
    """Layers over the hidden state at the end of a path, with a GELU (the exact one, by the error function)
    between them. Computed in float32 on the CPU, a path at a time, so that a path's value does not depend on
    those beside it.

    Args:
        layers: weight ``[out, in]`` and bias ``[out]`` of each; the first takes a hidden state of the model,
            the last gives one number. Of float32, bfloat16 or float16; held in float32.
        output: ``"sigmoid"`` for values from 0 to 1, or ``"linear"``.

    Raises:
        ArgumentError: there is no layer, one does not fit the one before, or the last does not give one
            number; or ``output`` is none of the two. When a search begins: the model's hidden states are of
            another size.
    """

    needs_hidden: ClassVar[bool] = True

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], output: Output = "sigmoid") -> None:
        if output not in ("sigmoid", "linear"):
            raise ArgumentError(f"output is {output!r}, expected 'sigmoid' or 'linear'")
        if not isinstance(layers, (list, tuple)) or not layers:
            raise ArgumentError(f"layers is {layers!r}, expected at least one (weight, bias)")
        self.output = output
        self.layers = [_checked(number, layer) for number, layer in enumerate(layers)]
        for number, ((before, _), (weight, _)) in enumerate(pairwise(self.layers), 1):
            if weight.shape[1] != before.shape[0]:
                raise ArgumentError(
                    f"layers.{number}.weight has the shape {list(weight.shape)}, expected "
                    f"[any, {before.shape[0]}]: layer {number - 1} gives so many numbers"
                )
        if (last := self.layers[-1][0]).shape[0] != 1:
            raise ArgumentError(
                f"layers.{len(layers) - 1}.weight has the shape {list(last.shape)}, expected "
                f"[1, {last.shape[1]}]: a value is one number"
            )

    @property
    def hidden_size(self) -> int:
        """Numbers of the hidden states that it takes."""
        return int(self.layers[0][0].shape[1])

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> ValueHead:
        """Reads a safetensors file: tensors ``layers.{i}.weight`` and ``layers.{i}.bias``, from 0 on, and the
        metadata ``format`` ("hornbeam.value_head"), ``version`` ("1"), ``activation`` ("gelu") and ``output``
        ("sigmoid" or "linear").

        Args:
            path: of the file.

        Raises:
            ArgumentError: there is no such file, or it is another one: the message has what is wrong.
            MissingExtra: safetensors is not installed.
        """
        tensors, metadata = read_tensors(path, "path")
        wanted: dict[str, tuple[str, ...]] = {
            "format": (FORMAT,),
            "version": (VERSION,),
            "activation": ("gelu",),
            "output": ("sigmoid", "linear"),
        }
        for name, allowed in wanted.items():
            if metadata.get(name) not in allowed:
                expected = " or ".join(map(repr, allowed))
                raise ArgumentError(
                    f"{path} has the {name} {metadata.get(name)!r} in its metadata, expected {expected}"
                )
        count = sum(name.endswith(".weight") for name in tensors)
        names = [f"layers.{number}.{part}" for number in range(count) for part in ("weight", "bias")]
        missing, surplus = sorted(set(names) - set(tensors)), sorted(set(tensors) - set(names))
        if missing or surplus or not names:
            raise ArgumentError(
                f"{path} lacks the tensors {missing or ['layers.0.weight']}, and has {surplus} beside what "
                "is expected"
            )
        layers = [
            (tensors[f"layers.{number}.weight"], tensors[f"layers.{number}.bias"]) for number in range(count)
        ]
        try:
            return cls(layers, "linear" if metadata["output"] == "linear" else "sigmoid")
        except ArgumentError as error:
            raise ArgumentError(f"{path}: {error}") from error

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the file that :meth:`from_file` reads, in float32.

        Args:
            path: of the file.

        Raises:
            MissingExtra: safetensors is not installed.
            OSError: the file cannot be written.
        """
        tensors = {}
        for number, (weight, bias) in enumerate(self.layers):
            tensors[f"layers.{number}.weight"], tensors[f"layers.{number}.bias"] = weight, bias
        metadata = {"format": FORMAT, "version": VERSION, "activation": "gelu", "output": self.output}
        write_tensors(path, tensors, metadata)

    def open(self, facts: SearchFacts) -> OpenValue:
        """Begins a search."""
        if facts.hidden_size != self.hidden_size:
            raise ArgumentError(
                f"the value head takes hidden states of {self.hidden_size} numbers, expected the model's "
                f"{facts.hidden_size}"
            )
        return super().open(facts)

    def __call__(self, paths: Sequence[Path]) -> list[float]:
        """One number a path."""
        return [self._of(path) for path in paths]

    def _of(self, path: Path) -> float:
        if path.hidden is None:
            raise ArgumentError(f"path {path.node} has no hidden state, expected one of a search")
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            state = path.hidden
            for number, (weight, bias) in enumerate(self.layers):
                state = torch.nn.functional.linear(state, weight, bias)
                if number < len(self.layers) - 1:
                    state = torch.nn.functional.gelu(state)
            return float(state.sigmoid() if self.output == "sigmoid" else state)

    def __repr__(self) -> str:
        sizes = [self.hidden_size, *(int(weight.shape[0]) for weight, _ in self.layers)]
        return f"ValueHead({' -> '.join(map(str, sizes))}, output={self.output!r})"


def _checked(number: int, layer: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer, in float32 on the CPU.

    Raises:
        ArgumentError: they are no tensors of floating point numbers of the right shapes.
    """
    if not isinstance(layer, (list, tuple)) or len(layer) != 2:
        raise ArgumentError(f"layers[{number}] is {layer!r}, expected (weight, bias)")
    for name, tensor, dimensions in zip(("weight", "bias"), layer, (2, 1), strict=True):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ArgumentError(f"layers.{number}.{name} is {got}, expected float32, bfloat16 or float16")
        if tensor.dim() != dimensions or 0 in tensor.shape:
            shape = "[out, in]" if dimensions == 2 else "[out]"
            raise ArgumentError(
                f"layers.{number}.{name} has the shape {list(tensor.shape)}, expected {shape}"
            )
    weight, bias = (tensor.detach().to("cpu", torch.float32).contiguous() for tensor in layer)
    if bias.shape[0] != weight.shape[0]:
        raise ArgumentError(
            f"layers.{number}.bias has the shape {list(bias.shape)}, expected [{weight.shape[0]}]"
        )
    return weight, bias
