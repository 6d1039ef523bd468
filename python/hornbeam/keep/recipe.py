"""A recipe is one choice of each factor; :func:`plan` and :func:`reduce` run it on arrays alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.keep.budget import Budget, parse, resolve
from hornbeam.keep.factor import Factor
from hornbeam.keep.reduce import Drop, Reduce, Reduced
from hornbeam.keep.score import Score
from hornbeam.keep.split import Split, Uniform
from hornbeam.keep.when import AfterPrefill, When

__all__ = ["NAMED_RECIPES", "Recipe", "plan", "recipe_of", "reduce"]

NAMED_RECIPES: dict[str, Callable[[], Recipe]] = {}
"""The published recipes by name, with their defaults; :mod:`hornbeam.recipes`, which lies above, fills it."""


@dataclass(frozen=True)
class Recipe:
    """What to keep: a moment, a score, a split and a reduction, and the budget that they share.

    With ``rerotate`` kept keys are turned so that they lie without a gap before the next token, as
    StreamingLLM renumbers them inside its cache; else they keep the positions that they had.

    Args:
        score: what each key is worth.
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        split: who gets how much of it.
        reduce: what becomes of the rest, and of what is kept.
        when: when it is done, while a text is generated.
        name: what messages call it.
        rerotate: turn kept keys, see above.

    Raises:
        ArgumentError: ``budget`` is not a count, a percentage or a byte size; or ``score``, ``split``,
            ``reduce`` or ``when`` is not an object of that kind, or its class lacks the method that does the
            work.
    """

    score: Score
    budget: Budget
    split: Split = field(default_factory=Uniform)
    reduce: Reduce = field(default_factory=Drop)
    when: When = field(default_factory=AfterPrefill)
    name: str = "custom"
    rerotate: bool = False

    def __post_init__(self) -> None:
        parse(self.budget)
        kinds: tuple[tuple[str, Factor, type[Factor]], ...] = (
            ("score", self.score, Score),
            ("split", self.split, Split),
            ("reduce", self.reduce, Reduce),
            ("when", self.when, When),
        )
        for name, factor, kind in kinds:
            if not isinstance(factor, kind):
                raise ArgumentError(f"{name} is {factor!r}, expected a hornbeam.keep.{kind.__name__}")
            factor.require_method()


def recipe_of(given: Any) -> Recipe | None:
    """What ``keep=`` says: a recipe, the one of a name with its defaults, or None.

    Raises:
        ArgumentError: it is not a recipe.
    """
    if given is None or isinstance(given, Recipe):
        return given
    importlib.import_module("hornbeam.recipes")
    if isinstance(given, str):
        if given not in NAMED_RECIPES:
            names = ", ".join(NAMED_RECIPES)
            raise ArgumentError(f"keep is {given!r}, expected a hornbeam.keep.Recipe or one of {names}")
        return NAMED_RECIPES[given]()
    if callable(given) and getattr(given, "__name__", None) in NAMED_RECIPES:
        name = given.__name__
        raise ArgumentError(f'keep is the function {name}, expected what it gives: hb.recipes.{name}("10%")')
    raise ArgumentError(
        f'keep is {given!r}, expected a recipe such as hb.recipes.snap_kv("10%"), the name of one, or None'
    )


def plan(
    recipe: Recipe, keys: Tensor, values: Tensor, queries: Tensor, *, scale: float | None = None
) -> list[list[list[Tensor]]]:
    """The indices that a recipe keeps, by layer, sequence and kv head.

    Every sequence has its own budget. Scores are found on the CPU in float32; ties go to the lowest
    index; the outcome does not depend on the number of threads.

    Args:
        recipe: what to do; :attr:`Recipe.when` plays no part.
        keys: `[L, B, Hk, N, D]`, rotated as they lie in the cache; any float dtype, any device.
        values: the same shape.
        queries: `[L, B, H, W, D]`, rotated, of the last W of the N tokens; `H` is a multiple of `Hk`.
            Scores over windows need W of at least the window (or all N), scores over all rows W = N.
        scale: what attention multiplies scores by; `D ** -0.5` where not given.

    Returns:
        `kept[layer][sequence][head]`: int64, ascending.

    Raises:
        ShapeError: shapes disagree, or the score needs more rows of queries; the message says how many.
    """
    _, kept = _scores_and_kept(recipe, keys, values, queries, scale)
    layers, batch, heads = keys.shape[:3]
    return [
        [[kept[b, layer, h].nonzero().flatten() for h in range(heads)] for b in range(batch)]
        for layer in range(layers)
    ]


def reduce(
    recipe: Recipe, keys: Tensor, values: Tensor, queries: Tensor, *, scale: float | None = None
) -> list[list[list[Reduced]]]:
    """As :func:`plan`, and what becomes of keys and values: merged, or decoded from their codes.

    Other arguments and errors are those of :func:`hornbeam.keep.plan`.

    Args:
        recipe: what to do.

    Returns:
        ``reduced[layer][sequence][head]``, each with keys and values `[K, D]`.
    """
    scores, kept = _scores_and_kept(recipe, keys, values, queries, scale)
    layers, batch, heads = keys.shape[:3]

    def plane(layer: int, b: int, h: int) -> Reduced:
        indices = kept[b, layer, h].nonzero().flatten()
        return recipe.reduce.evaluate(keys[layer, b, h], values[layer, b, h], scores[b, layer, h], indices)

    return [[[plane(layer, b, h) for h in range(heads)] for b in range(batch)] for layer in range(layers)]


def _scores_and_kept(
    recipe: Recipe, keys: Tensor, values: Tensor, queries: Tensor, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Scores and a mask of what stays, both `[B, L, Hk, N]`."""
    for name, tensor in (("keys", keys), ("values", values), ("queries", queries)):
        if tensor.dim() != 5:
            raise ShapeError(
                f"{name}.shape is {list(tensor.shape)}, expected five sizes, [L, B, heads, N, D]"
            )
    layers, batch, heads, tokens, dim = keys.shape
    token_bytes = 2 * dim * keys.element_size()
    k, v, q = (x.detach().to("cpu", torch.float32).contiguous() for x in (keys, values, queries))
    scores = recipe.score.evaluate(k, v, q, scale if scale is not None else max(dim, 1) ** -0.5)
    total = resolve(recipe.budget, num_tokens=tokens, num_planes=layers * heads, token_bytes=token_bytes)
    protected, unit = recipe.score.protected, recipe.score.unit
    kept = [recipe.split.select(scores[b], total, protected, unit)[1] for b in range(batch)]
    return scores, torch.stack(kept) if kept else torch.empty(scores.shape, dtype=torch.bool, device="cpu")
