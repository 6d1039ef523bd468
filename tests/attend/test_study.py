"""Offline study: what it says of a recipe is what generation does."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import hornbeam as hb
from hornbeam import _native, ops
from hornbeam.errors import ArgumentError, ShapeError
from tests import models

RECIPES = {
    "quest": hb.attend.Recipe(hb.attend.Bounds(), hb.attend.TopK(pages=3), dense_layers=0),
    "union": hb.attend.Recipe(hb.attend.Bounds(), hb.attend.TopK(pages="30%"), "union", dense_layers=0),
    "layer": hb.attend.Recipe(hb.attend.Mean(), hb.attend.TopK(pages=3, sinks=4), "layer", dense_layers=0),
    "topp": hb.attend.Recipe(hb.attend.Bounds(), hb.attend.TopP(p=0.6), dense_layers=0),
    "window": hb.recipes.window(32, sinks=4),
}


@pytest.mark.parametrize("length", [96, 100])
@pytest.mark.parametrize("name", list(RECIPES))
def test_what_is_planned_is_what_generation_reads(
    name: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of decoding with their own queries, over the keys that generation left. Where a prompt ends
    within a page, the page counts as one in both."""
    recipe, lm = RECIPES[name], hb.LM(models.llama())
    heads, kv_heads, layers = 6, 2, 2
    prompt = models.prompt(length, 3)[0].tolist()
    seen: list[list[tuple[int, torch.Tensor, np.ndarray]]] = [[] for _ in range(layers)]
    select = _native.select_pages

    def noting(tree: Any, q: torch.Tensor, chunks: Any, plan: Any, layer: int, *rest: Any) -> Any:
        found = select(tree, q, chunks, plan, layer, *rest)
        pages = np.zeros((heads, 16), bool)
        for head in range(heads):
            pages[head, plan.entries[found.mask(head // 3, head % 3)[0], 2] // 16] = True
        seen[layer].append((int(plan.row_positions[0]), q[0].clone(), pages))
        return found

    monkeypatch.setattr(_native, "select_pages", noting)
    request = lm.engine.submit(prompt, attend=recipe, draft=None, max_new_tokens=40)
    lm.engine.run([request])
    monkeypatch.undo()
    table = lm.tree.key_table(request.branch)
    for layer in range(layers):
        planes = slice(layer * kv_heads, (layer + 1) * kv_heads)
        own = slice(table.offsets[planes.start], table.offsets[planes.stop])
        keys, _ = ops.gather_rows(lm.tree.chunks, table.counts[planes], table.entries[own])
        keys = keys.view(kv_heads, -1, 32)[:, : seen[layer][-1][0] + 1]
        queries = torch.stack([query for _, query, _ in seen[layer]], dim=1)
        planned = hb.attend.plan(recipe, queries, keys, layer=layer)
        assert len(seen[layer]) >= 39
        for row, (position, _, pages) in enumerate(seen[layer]):
            pages[:, position // 16] = True  # the step's own key
            count = planned.units.shape[2]
            assert planned.units[:, row].numpy().tolist() == pages[:, :count].tolist()
            assert not pages[:, count:].any()
        assert 0.1 < float(planned.shares.mean()) < 0.9
    request.close()


def test_pages_of_a_window_are_those_at_both_ends() -> None:
    q, k = torch.randn(2, 20, 8), torch.randn(1, 90, 8)
    planned = hb.attend.plan(hb.recipes.window(10, sinks=4), q, k, page_tokens=8)
    for row, position in enumerate(range(70, 90)):
        # Those of the sinks, and those of the last ten tokens, the row's own among them.
        expected = {0, *range((position - 9) // 8, position // 8 + 1)}
        assert set(planned.units[0, row].nonzero().flatten().tolist()) == expected
    assert planned.patterns == ("window", "window")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("num_rows", "num_keys"), [(1, 1), (17, 17), (5, 40)])
def test_everything_is_read_where_the_budget_holds_it(dtype: Any, num_rows: int, num_keys: int) -> None:
    q, k = torch.randn(4, num_rows, 16).to(dtype), torch.randn(2, num_keys, 16).to(dtype)
    found = hb.attend.recall(hb.recipes.quest(64), q, k, k)
    assert found.shares.tolist() == [1.0] * 4
    assert found.top_k.tolist() == [1.0] * 4
    assert found.selected.visible[:, :].sum(dim=1).tolist() == list(
        range(num_keys - num_rows + 1, num_keys + 1)
    )


def test_a_layer_may_be_read_densely() -> None:
    q, k = torch.randn(2, 60, 8), torch.randn(1, 200, 8)
    recipe = hb.recipes.quest(2, dense_layers=2)
    assert hb.attend.plan(recipe, q, k, layer=1).patterns == ("dense", "dense")
    assert hb.attend.plan(recipe, q, k, layer=1).shares.tolist() == [1.0, 1.0]
    sparse = hb.attend.plan(recipe, q, k, layer=2)
    assert float(sparse.shares.max()) < 0.3
    assert torch.equal(sparse.units, hb.attend.plan(recipe, q, k).units)


def test_a_bigger_budget_misses_less() -> None:
    q, k, v = torch.randn(4, 30, 16), torch.randn(2, 400, 16), torch.randn(2, 400, 16)
    found = [hb.attend.recall(hb.recipes.quest(pages, group="union"), q, k, v) for pages in (2, 6, 18)]
    for less, more in itertools.pairwise(found):
        assert bool((less.mass < more.mass).all())
        assert bool((less.shares < more.shares).all())


def test_blocks_of_a_prompt_are_those_of_its_recipe() -> None:
    q, k = torch.randn(2, 300, 16), torch.randn(1, 700, 16)
    recipe = hb.recipes.flex_prefill(gamma=0.3, min_budget=64)
    planned = hb.attend.plan(recipe, q, k, layer=0)
    found = recipe.plan(0, q, k, 0.25)
    assert torch.equal(planned.units, found.blocks)
    assert planned.patterns == found.patterns
    assert planned.counts.sum(dim=1).tolist() == list(found.pairs_read)
    mass = hb.attend.missed(planned, q, k).mass
    torch.testing.assert_close(mass, found.covered_mass(q, k, 0.25), atol=1e-4, rtol=1e-4)
    short = hb.attend.plan(recipe, q[:, :20], k[:, :60])
    assert (short.patterns, short.shares.tolist()) == (("dense", "dense"), [1.0, 1.0])


def test_recipes_have_names() -> None:
    q, k = torch.randn(2, 60, 8), torch.randn(1, 200, 8)
    assert hb.attend.plan("quest", q, k).patterns == ("quest", "quest")
    assert hb.attend.plan("flex_prefill", q, k).patterns == ("dense", "dense")


@pytest.mark.parametrize(
    ("q", "k", "options", "message"),
    [
        ((2, 3), (1, 3, 4), {}, r"q.shape is \[2, 3\], expected three sizes, \[H, N, D\]"),
        ((2, 3, 4), (1, 1, 3, 4), {}, r"k.shape is \[1, 1, 3, 4\], expected three sizes, \[Hk, M, D\]"),
        ((2, 3, 4), (1, 3, 5), {}, "q has 4 elements a head and k 5, expected equally many"),
        ((3, 3, 4), (2, 3, 4), {}, "q has 3 heads, expected a multiple of the 2 heads of k"),
        ((2, 3, 4), (0, 3, 4), {}, "q has 2 heads, expected a multiple of the 0 heads of k"),
        ((2, 4, 4), (1, 3, 4), {}, "q has 4 rows, expected 1 to the 3 of k"),
        ((2, 0, 4), (1, 3, 4), {}, "q has 0 rows, expected 1 to the 3 of k"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(q: Any, k: Any, options: Any, message: str) -> None:
    for study in (hb.attend.plan, hb.attend.recall):
        with pytest.raises(ShapeError, match=message):
            study(hb.recipes.quest(), torch.randn(q), torch.randn(k), **options)


def test_what_is_no_recipe_is_refused() -> None:
    q, k = torch.randn(2, 3, 4), torch.randn(1, 3, 4)
    with pytest.raises(ArgumentError, match=r"recipe is 'qwest', expected one such as hb.recipes.quest"):
        hb.attend.plan("qwest", q, k)
    with pytest.raises(ArgumentError, match="recipe is 3, expected one such as"):
        hb.attend.plan(3, q, k)
    with pytest.raises(ArgumentError, match="page_tokens is 0, expected 1 or more"):
        hb.attend.plan("quest", q, k, page_tokens=0)
    with pytest.raises(ArgumentError, match="layer is -1, expected 0 or more"):
        hb.attend.plan("quest", q, k, layer=-1)
    with pytest.raises(ArgumentError, match=r"q.dtype is torch.int64, expected float32, bfloat16 or float16"):
        hb.attend.plan("quest", q.long(), k)
