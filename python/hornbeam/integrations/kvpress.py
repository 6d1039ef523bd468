"""Presses of kvpress as scores of a recipe. Imports nothing of kvpress.

    recipe = hb.integrations.kvpress.as_recipe(SnapKVPress(compression_ratio=0.7))
    lm.generate(prompt, keep=recipe)

A press is any object with ``score(module, hidden_states, keys, values, attentions, kwargs)``, the signature
of kvpress's ``ScorerPress`` (0.5): ``hidden_states [1, N, hidden]`` are the inputs of the attention module
for the whole prompt, ``keys`` and ``values`` ``[1, Hk, N, D]`` as they lie in the cache, ``attentions`` is
None and ``kwargs`` holds ``position_embeddings``. It gives scores ``[1, Hk, N]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.keep import Budget, Recipe, Reduce, Score, Split
from hornbeam.keep.reduce import Drop
from hornbeam.keep.split import Uniform

__all__ = ["PressScore", "as_recipe"]


@dataclass(frozen=True)
class PressScore(Score):
    """The scores of a press, after the prompt. It sees the hidden states of the whole prompt, which are kept
    until then: ``num_layers * num_tokens * hidden_size`` numbers."""

    reads_inputs: ClassVar[bool] = True
    press: Any = None

    def scores(self, keys: Tensor, values: Tensor, queries: Tensor, scale: float) -> Tensor:
        """Not possible: a press needs the hidden states of a model besides these tensors.

        Raises:
            ArgumentError: always.
        """
        raise ArgumentError("a press reads the hidden states of a model, expected use in LM.generate")

    def layer_scores(
        self, module: torch.nn.Module, hidden: Tensor, keys: Tensor, values: Tensor, rotary: Any
    ) -> Tensor:
        """As :meth:`hornbeam.keep.Score.layer_scores`.

        Raises:
            ShapeError: the press returned scores of another shape than `[1, Hk, N]`.
        """
        kwargs = {"hidden_states": hidden, "position_embeddings": rotary, "past_key_values": None}
        with torch.inference_mode():
            found = self.press.score(module, hidden, keys, values, None, kwargs)
        if not isinstance(found, Tensor) or found.shape != keys.shape[:3]:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ShapeError(f"the press gave {shape}, expected scores of shape {list(keys.shape[:3])}")
        return found[0].float()


def as_recipe(
    press: Any, budget: Budget | None = None, *, split: Split | None = None, reduce: Reduce | None = None
) -> Recipe:
    """A recipe that keeps, after the prompt, what a press of kvpress scores highest.

    Ties go to the lowest index, where kvpress leaves them to ``torch.topk``. Positions are kept, as there.

    Args:
        press: has ``score`` with kvpress's signature. Its ``compress`` is not called, so that presses that
            only override that one (merging, re-rotation, head-wise wrappers) are refused for want of a score.
        budget: as in :mod:`hornbeam.recipes`; by default what ``press.compression_ratio`` leaves.
        split, reduce: who gets how much, and what becomes of the rest; uniform, and dropped, by default.

    Raises:
        ArgumentError: the object has no ``score``, or neither a budget nor a compression ratio is given.
    """
    if not callable(getattr(press, "score", None)):
        raise ArgumentError(
            f"press is a {type(press).__name__} without score(...), expected a press with one"
        )
    if budget is None:
        ratio = getattr(press, "compression_ratio", None)
        if not isinstance(ratio, int | float):
            raise ArgumentError("budget is None, expected one, or a press with a compression_ratio")
        budget = f"{round((1 - ratio) * 100, 6):f}%"
    return Recipe(
        PressScore(press),
        budget,
        split or Uniform(),
        reduce or Drop(),
        name=f"kvpress:{type(press).__name__}",
    )
