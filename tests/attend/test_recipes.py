"""Recipes of sparse decoding: their defaults, what they refuse, and the rule that they become."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import hornbeam as hb
from hornbeam.attend import Always, Bounds, Elbow, Estimate, Mean, Recipe, Select, Threshold, TopK, TopP
from hornbeam.attend.recipe import NAMED_PREFILLS, NAMED_RECIPES, prefill_of, recipe_of
from hornbeam.errors import ArgumentError


@pytest.mark.parametrize("name", hb.recipes.attend.__all__)
def test_names_are_recipes_with_their_defaults(name: str) -> None:
    assert name in NAMED_RECIPES
    recipe = recipe_of(name)
    assert recipe == getattr(hb.recipes, name)()
    assert recipe is not None
    assert recipe.name == name
    assert hash(recipe) == hash(recipe_of(name))
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert isinstance(recipe.rule, type(Recipe().rule))


def test_defaults_are_those_of_the_papers() -> None:
    assert hb.recipes.quest() == Recipe(Bounds(slack=0.5), TopK(sinks=4, pages=64), "max", 2, "quest")
    paper = hb.recipes.quest(group="union", slack=1, sinks=0)
    assert paper == Recipe(Bounds(), TopK(pages=64), "union", 2, "quest")
    assert hb.recipes.twilight() == Recipe(Bounds(), TopP(p=0.85, cap=512), "max", 2, "twilight")
    assert hb.recipes.window(100) == Recipe(Mean(), Always(sinks=4, window=100), "max", 0, "window")
    # 128 first tokens, a window of 4,096 and 16 blocks of 128, in pages of 16.
    select = TopK(sinks=128, window=4096, pages=8 + 256 + 128)
    assert hb.recipes.inf_llm() == Recipe(Mean(), select, "layer", 0, "inf_llm")


@pytest.mark.parametrize(
    ("select", "numbers"),
    [
        (TopK(pages=7), {"k": 7}),
        (TopK(pages="12.5 %"), {"share": 0.125}),
        (TopP(p=1, floor=2, cap=9), {"p": 1.0, "floor": 2, "cap": 9}),
        (Threshold(share=0.01, floor=0), {"threshold": 0.01, "floor": 0, "cap": None}),
        (Elbow(floor=3), {"floor": 3, "cap": None}),
        (Always(), {}),
    ],
    ids=str,
)
def test_numbers_of_a_selection(select: Select, numbers: dict[str, Any]) -> None:
    assert select.numbers == numbers
    assert Recipe(select=select).rule is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopK(pages=0), r"pages is 0, expected a number of pages of at least 1, or a share"),
        (lambda: TopK(pages="0%"), r"pages is '0%', expected"),
        (lambda: TopK(pages="101%"), r"pages is '101%', expected"),
        (lambda: TopK(pages="much"), r"pages is 'much', expected"),
        (lambda: TopK(pages=True), r"pages is True, expected"),
        (lambda: TopK(pages=1.5), r"pages is 1.5, expected"),  # type: ignore[arg-type]
        (lambda: TopK(sinks=-1), r"sinks is -1, expected"),
        (lambda: TopK(window=0.5), r"window is 0.5, expected"),  # type: ignore[arg-type]
        (lambda: TopP(p=0.0), r"p is 0.0, expected a number above 0 and at most 1"),
        (lambda: TopP(p=float("nan")), r"p is nan, expected"),
        (lambda: TopP(floor=-1), r"floor is -1, expected"),
        (lambda: TopP(floor=4, cap=3), r"cap is 3, expected at least floor, which is 4"),
        (lambda: Threshold(share=2), r"share is 2, expected"),
        (lambda: Elbow(cap=0), r"cap is 0, expected"),
        (lambda: Select(), r"Select names no implementation"),
        (lambda: Estimate(), r"Estimate names no implementation"),
        (lambda: Bounds(slack=1.5), r"slack is 1.5, expected 0 to 1"),
        (lambda: Bounds(slack=float("nan")), r"slack is nan, expected 0 to 1"),
        (lambda: Bounds(slack=True), r"slack is True, expected 0 to 1"),
        (lambda: Recipe(estimate="bounds"), r"estimate is 'bounds', expected an hb.attend.Estimate"),  # type: ignore[arg-type]
        (lambda: Recipe(select=64), r"select is 64, expected an hb.attend.Select"),  # type: ignore[arg-type]
        (lambda: Recipe(group="mean"), r"group is 'mean', expected 'max', 'union' or 'layer'"),  # type: ignore[arg-type]
        (lambda: Recipe(dense_layers=-1), r"dense_layers is -1, expected"),
    ],
)
def test_what_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_what_is_no_recipe_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"attend is 'snap_kv', expected a recipe or one of inf_llm, quest"
    ):
        recipe_of("snap_kv")
    with pytest.raises(ArgumentError, match=r"attend is the function quest, .* hb.recipes.quest\(\)"):
        recipe_of(hb.recipes.quest)
    with pytest.raises(
        ArgumentError, match=r"attend is Recipe.*, expected a recipe such as hb.recipes.quest"
    ):
        recipe_of(hb.recipes.snap_kv())
    with pytest.raises(ArgumentError, match="prefill is 3, expected a recipe such as"):
        prefill_of(3)
    with pytest.raises(ArgumentError, match="prefill is 'quest', expected a recipe or one of"):
        prefill_of("quest")
    assert recipe_of(None) is prefill_of(None) is None
    assert "quest" not in NAMED_PREFILLS


def test_an_estimate_of_a_name_that_there_is_not() -> None:
    @dataclasses.dataclass(frozen=True)
    class Guess(Estimate):
        native = "guess"

    with pytest.raises(ArgumentError, match="estimate"):
        Recipe(Guess())
