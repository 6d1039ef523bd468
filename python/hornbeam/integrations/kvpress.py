"""Presses of kvpress as recipes, without importing kvpress::

    class LongValues:  # or a press of kvpress, such as SnapKVPress(compression_ratio=0.7)
        compression_ratio = 0.7

        def score(self, module, hidden_states, keys, values, attentions, kwargs):
            return values.norm(dim=-1)

    recipe = hb.integrations.kvpress.as_recipe(LongValues())
    lm.generate(prompt, keep=recipe, max_new_tokens=8)

A press is any object with one of two methods of kvpress (0.5), both of which take ``(module, hidden_states,
keys, values, attentions, kwargs)``: ``hidden_states [1, N, hidden]`` are the inputs of the attention module
for the whole prompt, ``keys`` and ``values`` ``[1, Hk, N, D]`` as they lie in the cache, ``attentions`` is
None and ``kwargs`` holds ``position_embeddings``. ``score`` gives scores ``[1, Hk, N]``. ``compress`` gives
those keys and values that stay, or marks others on the module as ``masked_key_indices``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.keep import Budget, Recipe, Reduce, Score, Split
from hornbeam.keep.reduce import Drop
from hornbeam.keep.split import Uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PressChoice", "PressScore", "as_recipe"]


@dataclass(frozen=True)
class PressScore(Score):
    """The scores of a press, after the prompt. It sees the hidden states of the whole prompt, which are kept
    until then: ``num_layers * num_tokens * hidden_size`` numbers.

    Args:
        press: any object with ``score`` or ``compress`` of kvpress.
    """

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
        with torch.inference_mode():
            found = self.press.score(module, hidden, keys, values, None, _keywords(hidden, rotary))
        if not isinstance(found, Tensor) or found.shape != keys.shape[:3]:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ShapeError(f"the press gave {shape}, expected scores of shape {list(keys.shape[:3])}")
        return found[0].float()


@dataclass(frozen=True)
class PressChoice(PressScore):
    """1 for what a press's own ``compress`` lets stay, 0 for the rest."""

    def layer_scores(
        self, module: torch.nn.Module, hidden: Tensor, keys: Tensor, values: Tensor, rotary: Any
    ) -> Tensor:
        """As :meth:`hornbeam.keep.Score.layer_scores`.

        Raises:
            ArgumentError: the press gave keys or values other than those that it was given: merged ones, say,
                or keys that it turned.
        """
        vars(module).pop("masked_key_indices", None)
        given = keys.clone(), values.clone()  # some presses write into what they are given
        with torch.inference_mode():
            left = self.press.compress(module, hidden, *given, None, _keywords(hidden, rotary))
        stays = _found(type(self.press).__name__, keys[0], values[0], *left)
        # Presses that keep other numbers of keys in each head leave them all in place, and mask some.
        masked = vars(module).pop("masked_key_indices", None)
        if masked is not None:
            stays[masked[1].cpu(), masked[2].cpu()] = False
        return stays.float()


@dataclass(frozen=True)
class ChosenKeys(Split):
    """What :class:`PressChoice` scored with 1, whatever the budget says."""

    def budgets(self, scores: Tensor, total: int, protected: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
        return self.select(scores, total, protected, 1)[0]

    def select_resident(
        self,
        scores: Tensor,
        counts: NDArray[Any],
        positions: NDArray[Any],
        total: int,
        protected: tuple[int, int, int],
        unit: int,
    ) -> tuple[Tensor, Tensor]:
        kept = scores > 0
        planes = [int(plane.sum()) for plane in kept.split(counts.ravel().tolist())]
        return torch.tensor(planes, dtype=torch.int32).view(counts.shape), kept


@dataclass(frozen=True)
class RoundedShare(Split):
    """As many keys as kvpress lets stay, dealt out by another split: of each plane's keys the share that
    ``compression_ratio`` leaves, rounded down in floating-point numbers as there, and one at least."""

    compression_ratio: float = 0.0
    inner: Split = field(default_factory=Uniform)

    def budgets(self, scores: Tensor, total: int, protected: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
        return self.select(scores, total, protected, 1)[0]

    def select_resident(
        self,
        scores: Tensor,
        counts: NDArray[Any],
        positions: NDArray[Any],
        total: int,
        protected: tuple[int, int, int],
        unit: int,
    ) -> tuple[Tensor, Tensor]:
        share = 1 - self.compression_ratio
        total = sum(min(count, max(1, int(count * share))) for count in counts.ravel().tolist())
        return self.inner.select_resident(scores, counts, positions, total, protected, unit)


def as_recipe(
    press: Any, budget: Budget | None = None, *, split: Split | None = None, reduce: Reduce | None = None
) -> Recipe:
    """A recipe that keeps, after the prompt, what a press of kvpress keeps.

    A press with a ``compress`` of its own (PyramidKV's budgets, chunks, AdaKV's heads) decides what stays;
    a press that only scores keeps as many keys as kvpress's rounding gives. With a ``budget`` only scores are
    used, and all else is ours. Ties of scores go to the lowest index, where kvpress leaves them to
    ``torch.topk``. Positions are kept, as there. Where a press prepares itself in ``post_init_from_model``,
    call that before.

    Args:
        press: see the beginning of this module.
        budget: as in :mod:`hornbeam.recipes`; by default what ``press.compression_ratio`` leaves.
        split, reduce: who gets how much, and what becomes of the rest; uniform, and dropped, by default.

    Raises:
        ArgumentError: the object has neither method, or acts otherwise than by them (a ``forward_hook`` or a
            ``__call__`` of its own, such as Finch's); neither a budget nor a compression ratio is given; or a
            split without a budget, for a press that decides itself.
    """
    name = type(press).__name__
    compresses = _own(press, "compress", "ScorerPress") and budget is None
    if not compresses and not callable(getattr(press, "score", None)):
        raise ArgumentError(f"press is a {name} without score(...), expected a press with one")
    for method, base in (("forward_hook", "BasePress"), ("__call__", "BasePress")):
        if _own(press, method, base):
            raise ArgumentError(
                f"press is a {name} with a {method} of its own, expected one that acts by score or compress"
            )
    ratio = _ratio(press)
    if budget is None and ratio is None and not compresses:
        raise ArgumentError("budget is None, expected one, or a press with a compression_ratio")
    if compresses and split is not None:
        raise ArgumentError(
            f"split is {split!r}, expected None for a {name}, whose compress decides, or a budget beside it"
        )
    score = PressChoice(press) if compresses else PressScore(press)
    chosen = split or Uniform()
    if compresses:
        chosen = ChosenKeys()
    elif budget is None:
        chosen = RoundedShare(compression_ratio=ratio or 0, inner=chosen)
    if budget is None:
        # Of a press that decides itself it says only that something may go.
        budget = f"{(1 - ratio) * 100:f}%" if ratio else "99.999999%" if compresses else "100%"
    return Recipe(score, budget, chosen, reduce or Drop(), name=f"kvpress:{name}")


def _ratio(press: Any) -> float | None:
    """What a press says that it removes; None where it does not, or not before it ran."""
    try:
        ratio = press.compression_ratio
    except Exception:
        return None
    return float(ratio) if isinstance(ratio, int | float) and not isinstance(ratio, bool) else None


def _keywords(hidden: Tensor, rotary: Any) -> dict[str, Any]:
    """The keywords that a press expects the attention module to have been given."""
    return {"hidden_states": hidden, "position_embeddings": rotary, "past_key_values": None}


def _own(press: Any, method: str, base: str) -> bool:
    """Whether a press has a method that is not the one of kvpress's class ``base``."""
    classes = [cls for cls in type(press).__mro__ if method in vars(cls)]
    return bool(classes) and classes[0].__name__ != base


def _found(name: str, keys: Tensor, values: Tensor, kept_keys: Any, kept_values: Any) -> Tensor:
    """Which of ``keys`` and ``values [Hk, N, D]`` a press gave as ``[1, Hk, K, D]``: bool ``[Hk, N]``."""
    heads, tokens, dim = keys.shape
    for part in (kept_keys, kept_values):
        if not isinstance(part, Tensor) or part.dim() != 4 or part.shape[:2] != (1, heads):
            shape = list(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise ShapeError(f"{name}.compress gave {shape}, expected [1, {heads}, at most {tokens}, {dim}]")
    stays = torch.zeros(heads, tokens, dtype=torch.bool)
    for head in range(heads):
        places: dict[bytes, list[int]] = {}
        for place, row in reversed(list(enumerate(_rows(keys[head], values[head])))):
            places.setdefault(row, []).append(place)
        for row in _rows(kept_keys[0, head], kept_values[0, head]):
            if not places.get(row):
                raise ArgumentError(
                    f"{name}.compress gave a key or value that it was not given, expected some as they are"
                )
            stays[head, places[row].pop()] = True
    return stays


def _rows(keys: Tensor, values: Tensor) -> list[bytes]:
    """The bits of each key with its value."""
    both = torch.cat([keys, values], dim=-1).cpu().contiguous().view(torch.uint8).numpy()
    return [row.tobytes() for row in both]
