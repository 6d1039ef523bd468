"""Queries, keys and values of the default model while it reads real text."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

import hornbeam as hb
from hornbeam import ops
from hornbeam.model import loading

__all__ = ["LAYERS", "Layer", "recorded", "standard_library"]

#: Layers of the default model that are recorded: from its first to its last.
LAYERS = (0, 4, 9, 14, 19, 24, 29)
#: Modules whose source is read.
MODULES = ("statistics", "textwrap", "heapq", "string", "dataclasses", "argparse")


@dataclass(frozen=True, eq=False)
class Layer:
    """What attention of one layer is given.

    Args:
        query: `[H, N, D]`, rotated.
        key: `[Hk, N, D]`, rotated.
        value: `[Hk, N, D]`.
        scale: factor of the scores.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float

    def first(self, tokens: int) -> Layer:
        """What it is given for the beginning of the text.

        Args:
            tokens: how much of it.
        """
        query, key, value = (x[:, :tokens].contiguous() for x in (self.query, self.key, self.value))
        return Layer(query, key, value, self.scale)


def standard_library() -> str:
    """Some modules of the standard library, one after the other."""
    return "\n".join(inspect.getsource(importlib.import_module(name)) for name in MODULES)


class _Recorder:
    """Keeps what the layers are given."""

    def __init__(self, tree: Any, branch: Any) -> None:
        self.tree, self.branch = tree, branch
        self.layers: dict[int, Layer] = {}

    def __call__(self, module: torch.nn.Module, layer: int, query: Tensor, options: dict[str, Any]) -> None:
        if layer not in LAYERS:
            return
        heads = self.tree.num_kv_heads
        table = self.tree.key_table(self.branch, in_step=True)
        begin, end = layer * heads, (layer + 1) * heads
        entries = table.entries[table.offsets[begin] : table.offsets[end]]
        found = ops.gather_rows(self.tree.chunks, table.counts[begin:end], entries)
        key, value = (x.view(heads, -1, query.shape[-1]) for x in found)
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        self.layers[layer] = Layer(query.clone(), key, value, scale)


@cache
def recorded(tokens: int) -> dict[int, Layer]:
    """Of some layers of the default model, in float32, while it reads the beginning of the text.

    Args:
        tokens: how much of it.
    """
    model, tokenizer = loading.load(loading.resolve("smollm2"), dtype=torch.float32)
    text = list(tokenizer(standard_library())["input_ids"])[:tokens]
    host = hb.LM(model, tokenizer).engine
    branch = host.tree.branch()
    try:
        with host.tree.step([(branch, text, None)], owner=host) as step:
            recorder = _Recorder(host.tree, branch)
            host.forward(step, logits_rows=[0], observer=recorder)
    finally:
        branch.drop(keep=False)
    return recorder.layers
