"""A recipe is one choice of each factor: what is known of a page, and which pages are read for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hornbeam import _native
from hornbeam.attend.estimate import Bounds, Estimate
from hornbeam.attend.select import Select, TopK
from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number

__all__ = ["NAMED_PREFILLS", "NAMED_RECIPES", "Group", "Recipe", "prefill_of", "recipe_of"]

Group = Literal["max", "union", "layer"]
"""Which query heads choose together, see :class:`Recipe`."""

NAMED_RECIPES: dict[str, Callable[[], Recipe]] = {}
"""The published recipes of decoding by name, with their defaults; :mod:`hornbeam.recipes`, which lies above,
fills it."""
NAMED_PREFILLS: dict[str, Callable[[], Any]] = {}
"""Those of prefill, likewise."""


@dataclass(frozen=True)
class Recipe:
    """Which pages of keys the rows of decoding read.

    Every row chooses for itself, by its own query and its own text alone, whoever is beside it and whatever
    is drafted. The rows of prompts read everything. Layers with a sliding window that is shorter than the
    model's context read what the window shows.

    Args:
        estimate: what is known of a page without reading its keys.
        select: which pages are read for it.
        group: ``"max"``: the query heads that share a kv head read the same pages, scored by the greatest of
            their scores (ours; an upper bound for each of them). ``"union"``: each query head chooses for
            itself, as papers on models without groups have it; the kv head reads the union. ``"layer"``: all
            heads of a layer read the same pages, scored by the sum (InfLLM).
        dense_layers: the first so many layers read everything.
        name: what messages call it.

    Raises:
        ArgumentError: a part is not of its kind, or a number out of its range.
    """

    estimate: Estimate = field(default_factory=Bounds)
    select: Select = field(default_factory=TopK)
    group: Group = "max"
    dense_layers: int = 2
    name: str = "custom"

    def __post_init__(self) -> None:
        if not isinstance(self.estimate, Estimate):
            raise ArgumentError(
                f"estimate is {self.estimate!r}, expected an hb.attend.Estimate such as hb.attend.Bounds()"
            )
        if not isinstance(self.select, Select):
            raise ArgumentError(
                f"select is {self.select!r}, expected an hb.attend.Select such as hb.attend.TopK(64)"
            )
        if self.group not in get_args(Group):
            raise ArgumentError(f"group is {self.group!r}, expected 'max', 'union' or 'layer'")
        whole_number(self.dense_layers, "dense_layers")
        _ = self.rule  # what it refuses is refused here

    @property
    def rule(self) -> _native.AttendRule:
        """The recipe as the native selection takes it."""
        numbers: dict[str, Any] = {
            "k": None,
            "share": None,
            "p": None,
            "floor": 0,
            "cap": None,
            "threshold": None,
            **self.estimate.numbers,
            **self.select.numbers,
        }
        return _native.AttendRule(
            estimate=str(self.estimate.native),
            group=self.group,
            select=str(self.select.native),
            sinks=self.select.sinks,
            window=self.select.window,
            **numbers,
        )


def recipe_of(given: Any) -> Recipe | None:
    """What ``attend=`` says: a recipe, the one of a name with its defaults, or None.

    Args:
        given: the argument.

    Raises:
        ArgumentError: it is not a recipe.
    """
    if given is None or isinstance(given, Recipe):
        return given
    found: Recipe = _named(given, "attend", NAMED_RECIPES, "hb.recipes.quest(pages=64)")
    return found


def prefill_of(given: Any) -> Any:
    """What ``prefill=`` says: a recipe, the one of a name with its defaults, or None.

    A recipe of prefill has a method ``attention(layer, query [H, N, D], key [Hk, M, D], value [Hk, M, D],
    scale)``, of the last N of M tokens, that gives ``[N, H, D]``, or None where everything is to be read.

    Args:
        given: the argument.

    Raises:
        ArgumentError: it is not one.
    """
    if given is None or (callable(getattr(given, "attention", None)) and not isinstance(given, type)):
        return given
    return _named(given, "prefill", NAMED_PREFILLS, "hb.recipes.flex_prefill()")


def _named(given: Any, argument: str, recipes: dict[str, Callable[[], Any]], example: str) -> Any:
    importlib.import_module("hornbeam.recipes")
    if isinstance(given, str):
        if given not in recipes:
            names = ", ".join(recipes) or "none"
            raise ArgumentError(f"{argument} is {given!r}, expected a recipe or one of {names}")
        return recipes[given]()
    if callable(given) and getattr(given, "__name__", None) in recipes:
        name = given.__name__
        raise ArgumentError(f"{argument} is the function {name}, expected what it gives: hb.recipes.{name}()")
    raise ArgumentError(
        f"{argument} is {given!r}, expected a recipe such as {example}, the name of one, or None"
    )
