"""Values of paths, from their definitions: whole texts through the plain model, one at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch


def final_hidden(model: Any, token_ids: Sequence[int]) -> torch.Tensor:
    """What the last row of a text hands to the model's head, float32 ``[hidden size]``."""
    seen = []
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, given: seen.append(given[0][0, -1].float()))
    try:
        with torch.inference_mode():
            model(torch.tensor([list(token_ids)]))
    finally:
        hook.remove()
    return seen[0]


def reward(model: Any, token_ids: Sequence[int], good: int, bad: int) -> float:
    """The share of ``good`` among the two tokens that may follow a text (Math-Shepherd, section 3.3)."""
    with torch.inference_mode():
        chances = model(torch.tensor([list(token_ids)])).logits[0, -1].double().softmax(-1)
    return float(chances[good] / (chances[good] + chances[bad]))


def head(layers: Sequence[tuple[torch.Tensor, torch.Tensor]], state: torch.Tensor, output: str) -> float:
    """A network with a GELU between its layers, in doubles, a number at a time."""
    numbers = [float(number) for number in state]
    for place, (weight, bias) in enumerate(layers):
        numbers = [
            sum(w * x for w, x in zip(row.tolist(), numbers, strict=True)) + b
            for row, b in zip(weight.double(), bias.double().tolist(), strict=True)
        ]
        if place < len(layers) - 1:
            numbers = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in numbers]
    [value] = numbers
    return 1 / (1 + math.exp(-value)) if output == "sigmoid" else value
