"""Recipes from end to end, on arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam import keep, recipes
from hornbeam.errors import ArgumentError, ShapeError
from tests.keep.arrays import cache
from tests.reference import keep as reference

LAYERS, HEADS = 4, 2
HEAD_SCORES = [[0.1, 0.9], [0.0, 0.3], [0.5, 0.5], [0.2, 0.0]]

ALL = {
    "streaming_llm": recipes.streaming_llm,
    "h2o": recipes.h2o,
    "tova": recipes.tova,
    "snap_kv": lambda budget: recipes.snap_kv(budget, window=8),
    "pyramid_kv": lambda budget: recipes.pyramid_kv(budget, window=8),
    "ada_kv": lambda budget: recipes.ada_kv(budget, window=8),
    "expected_attention": recipes.expected_attention,
    "key_diff": recipes.key_diff,
    "knorm": recipes.knorm,
    "prefix_kv": recipes.prefix_kv,
    "ems": lambda budget: recipes.ems(budget, window=8),
    "zip_cache": recipes.zip_cache,
    "kivi": recipes.kivi,
    "int8": recipes.int8,
    "window_kv": recipes.window_kv,
    "sparse_mm": lambda budget: recipes.sparse_mm(budget, head_scores=HEAD_SCORES, window=8),
}


def test_every_recipe_is_here() -> None:
    assert set(ALL) == set(recipes.keep.__all__)
    assert all(make("50%").name == name for name, make in ALL.items())


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=20, deadline=None)
@given(
    tokens=st.sampled_from([1, 2, 9, 33, 64]),
    budget=st.one_of(
        st.integers(0, 80), st.sampled_from(["0%", "1%", "33.3%", "100%", "0B", "1KB", "3.5KiB", "64MB"])
    ),
    batch=st.integers(1, 2),
    seed=st.integers(0, 100),
)
def test_budgets_hold(name: str, tokens: int, budget: int | str, batch: int, seed: int) -> None:
    arrays = cache(LAYERS, batch, HEADS, 2, tokens, tokens, 8, seed)
    recipe = ALL[name](budget)
    kept = hb.keep.plan(recipe, *arrays)
    total = keep.resolve(budget, num_tokens=tokens, num_planes=LAYERS * HEADS, token_bytes=64)
    assert len(kept) == LAYERS
    for b in range(batch):
        planes = [kept[layer][b][h] for layer in range(LAYERS) for h in range(HEADS)]
        count = sum(map(len, planes))
        if recipe.score.unit == 1:
            assert count == total
        else:
            # Budgets are counted in whole windows, of which the last one of a text may be short.
            unit, missing = recipe.score.unit, -tokens % recipe.score.unit
            assert total - LAYERS * HEADS * (unit + missing) < count <= total
        for indices in planes:
            assert indices.dtype == torch.int64
            assert indices.tolist() == sorted(set(indices.tolist()))
            assert all(0 <= i < tokens for i in indices.tolist())


def test_the_whole_of_snap_kv() -> None:
    """Scores, budgets and kept sets together, where no two scores are near each other."""
    keys, values, queries = cache(2, 2, 2, 3, 80, 16, 16, seed=7)
    kept = keep.plan(recipes.snap_kv(30, window=16), keys, values, queries)
    for layer in range(2):
        for b in range(2):
            k, v, q = (x[layer, b].double().numpy() for x in (keys, values, queries))
            scores = reference.window_mass(k, v, q, 0.25, 16, 5)
            gaps = np.diff(np.sort(scores[:, :64]))
            assert gaps.min() > 1e-8
            for h in range(2):
                assert kept[layer][b][h].tolist() == reference.kept_tokens(scores[h].tolist(), 30, (0, 16, 0))


def test_streaming_keeps_sinks_and_the_newest() -> None:
    arrays = cache(1, 1, 1, 1, 20, 1, 4)
    assert keep.plan(recipes.streaming_llm(7), *arrays)[0][0][0].tolist() == [0, 1, 2, 3, 17, 18, 19]
    assert keep.plan(recipes.streaming_llm(1), *arrays)[0][0][0].tolist() == [19]
    assert keep.plan(recipes.streaming_llm(0), *arrays)[0][0][0].tolist() == []
    assert keep.plan(recipes.streaming_llm(99), *arrays)[0][0][0].tolist() == list(range(20))


def test_h2o_gives_half_to_the_newest() -> None:
    arrays = cache(1, 1, 1, 2, 40, 40, 8)
    kept = keep.plan(recipes.h2o(10), *arrays)[0][0][0].tolist()
    assert kept[-5:] == [35, 36, 37, 38, 39]
    assert len(kept) == 10


def test_layers_share_a_ranking_where_the_paper_says_so() -> None:
    arrays = cache(2, 1, 3, 2, 50, 50, 8)
    for recipe in (recipes.tova(11), recipes.window_kv(24)):
        for layer in keep.plan(recipe, *arrays):
            assert all(torch.equal(layer[0][0], head) for head in layer[0])


def test_keeping_everything_changes_nothing() -> None:
    arrays = cache(LAYERS, 2, HEADS, 2, 30, 30, 8)
    for name, make in ALL.items():
        if name in ("zip_cache", "kivi", "int8"):  # they encode
            continue
        planes = keep.reduce(make("100%"), *arrays)
        for layer in range(LAYERS):
            for b in range(2):
                for h in range(HEADS):
                    assert torch.equal(planes[layer][b][h].keys, arrays[0][layer, b, h])
                    assert torch.equal(planes[layer][b][h].values, arrays[1][layer, b, h])


def test_quantised_recipes_say_what_they_take() -> None:
    keys, values, queries = (x.bfloat16() for x in cache(1, 1, 2, 2, 256, 256, 64))
    full = 2 * 256 * 64 * 2
    for recipe, most in ((recipes.zip_cache(), 0.35), (recipes.kivi(), 0.45)):
        for plane in keep.reduce(recipe, keys, values, queries)[0][0]:
            assert len(plane.kept) == 256
            assert plane.num_bytes is not None
            assert plane.num_bytes <= most * full


def test_a_score_of_ones_own() -> None:
    class Even(keep.Score):
        protected = (0, 1, 0)

        def scores(self, keys, values, queries, scale):
            out = torch.zeros(keys.shape[1], keys.shape[0], keys.shape[2], keys.shape[3])
            out[..., ::2] = 1
            return out

    kept = keep.plan(keep.Recipe(Even(), 4), *cache(1, 1, 1, 1, 9, 1, 4))
    assert kept[0][0][0].tolist() == [0, 2, 4, 8]


def test_shapes_are_checked() -> None:
    keys, values, queries = cache(2, 1, 2, 2, 10, 10, 8)
    recipe = recipes.knorm(4)
    for bad in (
        (keys[0], values, queries),
        (keys, values[..., :5, :], queries),
        (keys, values, queries[:, :, :3]),
        (keys, values, queries[..., :4]),
        (keys[..., :3, :], values[..., :3, :], queries),
    ):
        with pytest.raises(ShapeError, match="expected"):
            keep.plan(recipe, *bad)
    with pytest.raises(ShapeError, match="expected all 10 rows"):
        keep.plan(recipes.h2o(4), keys, values, queries[..., -3:, :])


@pytest.mark.parametrize("budget", [-1, "101%", "half", "5 XB", "-3%", 1.5, None, True, "iB", "1iB"])
def test_budgets_are_checked(budget) -> None:
    with pytest.raises(ArgumentError, match="budget is"):
        recipes.knorm(budget)


def test_budgets_resolve_exactly() -> None:
    sizes = dict(num_tokens=1000, num_planes=7, token_bytes=256)
    assert keep.resolve(100, **sizes) == 700
    assert keep.resolve(2000, **sizes) == 7000
    assert keep.resolve("30%", **sizes) == 2100
    assert keep.resolve("0.1%", **sizes) == 7
    assert keep.resolve("256KB", **sizes) == 1000
    assert keep.resolve("1MiB", **sizes) == 4096
    assert keep.resolve("64GB", **sizes) == 7000


def test_moments() -> None:
    def at(prefilled=False, since=0, held=0, budget=None) -> keep.CacheState:
        return keep.CacheState(prefilled, since, held, budget)

    assert keep.AfterPrefill().due(at(prefilled=True))
    assert not keep.AfterPrefill().due(at(since=10**6))
    assert keep.EveryTokens(100).due(at(since=100))
    assert not keep.EveryTokens(100).due(at(since=99))
    assert keep.EveryTokens(100).due(at(prefilled=True))
    assert keep.OnPressure(0.5).due(at(held=51, budget=100))
    assert not keep.OnPressure(0.5).due(at(held=50, budget=100))
    assert not keep.OnPressure().due(at(held=10**12))
    for make in (lambda: keep.EveryTokens(0), lambda: keep.OnPressure(0)):
        with pytest.raises(ArgumentError, match="expected"):
            make()
