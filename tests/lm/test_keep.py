"""LM.generate(keep=...): what is kept after a prompt, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.keep import AfterPrefill, EveryTokens, Recipe, SimilarityMerge, ValueMerge
from tests import models
from tests.lm.kept import HEADS, LAYERS, RECIPES, arrays, continued, ids, when


class TestWhatIsKept:
    @pytest.mark.parametrize("name", RECIPES)
    @pytest.mark.parametrize("budget", ["40%"])
    def test_the_kept_set_is_that_of_the_plan(self, model, lm, spy, name, budget):
        recipe = when(RECIPES[name](budget), AfterPrefill())
        prompt = ids(70)
        out = lm.generate(prompt, keep=recipe, max_new_tokens=2, draft=None)
        keys, values, queries, _ = arrays(model, prompt)
        frequencies = hb.keep.rotate.inverse_frequencies(model)
        if name == "expected_attention":
            recipe = hb.recipes.expected_attention(budget, inverse_frequencies=frequencies)
        if name == "expected, weighted twice":
            score = hb.keep.ExpectedAttention(64, inverse_frequencies=frequencies)
            recipe = hb.keep.Recipe(hb.keep.ValueWeighted(score, "l2"), budget)
        kept = hb.keep.plan(recipe, keys, values, queries)
        want = [kept[layer][0][head].tolist() for layer in range(LAYERS) for head in range(HEADS)]
        # The second token's own key came after the reduction.
        assert [plane[:-1] for plane in spy.positions()] == want
        assert all(plane[-1] == 70 for plane in spy.positions())
        assert out.stats.reductions == 1

    @pytest.mark.parametrize("name", ["streaming_llm", "snap_kv", "tova", "knorm", "h2o", "ems"])
    @pytest.mark.parametrize("pieces", [8192, 32])
    def test_the_text_is_that_of_transformers_over_the_kept_keys(self, model, name, pieces):
        lm = hb.LM(model, page_tokens=4, prefill_rows=pieces)
        lm.dense_rows = 16
        recipe, prompt = when(RECIPES[name](20), AfterPrefill()), ids(120, seed=3)
        keys, values, queries, token = arrays(model, prompt)
        planes = hb.keep.reduce(recipe, keys, values, queries)

        def stack(field):
            return [torch.stack([getattr(plane, field) for plane in layer[0]])[None] for layer in planes]

        want = continued(model, stack("keys"), stack("values"), len(prompt), token, 16)
        out = lm.generate(prompt, keep=recipe, max_new_tokens=16, draft=None)
        assert out.token_ids == want
        assert out.token_ids != lm.generate(prompt, max_new_tokens=16, draft=None).token_ids

    @pytest.mark.parametrize("reduce", [ValueMerge(), SimilarityMerge()])
    def test_merged_keys_and_values_are_what_later_tokens_read(self, model, lm, reduce):
        recipe = Recipe(hb.keep.KeyNorm(), 20, reduce=reduce)
        prompt = ids(80, seed=5)
        keys, values, queries, token = arrays(model, prompt)
        planes = hb.keep.reduce(recipe, keys, values, queries)
        k = [torch.stack([plane.keys for plane in layer[0]])[None] for layer in planes]
        v = [torch.stack([plane.values for plane in layer[0]])[None] for layer in planes]
        out = lm.generate(prompt, keep=recipe, max_new_tokens=12, draft=None)
        assert out.token_ids == continued(model, k, v, 80, token, 12)

    @pytest.mark.parametrize("name", RECIPES)
    def test_keeping_everything_changes_nothing(self, lm, name):
        prompt = ids(50, seed=1)
        want = lm.generate(prompt, max_new_tokens=8, draft=None).token_ids
        for budget in ("100%", 10_000, "64MB"):
            out = lm.generate(prompt, keep=RECIPES[name](budget), max_new_tokens=8, draft=None)
            assert out.token_ids == want
            assert out.stats.reductions == 0
            assert out.stats.kept_share == 1.0

    @pytest.mark.parametrize("name", RECIPES)
    @pytest.mark.parametrize("budget", [0, 1, "1B"])
    def test_tiny_budgets(self, lm, spy, name, budget):
        recipe = RECIPES[name](budget)
        out = lm.generate(ids(30), keep=recipe, max_new_tokens=6, draft=None)
        assert len(out.token_ids) == 6
        most = 1 if budget == 1 else 0
        own = min(getattr(recipe.when, "count", 5), 5)
        assert max(len(plane) for plane in spy.held[0]) <= most + own
        assert lm.generate([7], keep=recipe, max_new_tokens=3, draft=None).token_ids

    def test_constant_keys_and_a_single_head(self):
        lm = hb.LM(models.qwen3())
        for name, make in RECIPES.items():
            if name == "sparse_mm":
                continue
            out = lm.generate([5] * 40, keep=make("30%"), max_new_tokens=5, draft=None)
            assert len(out.token_ids) == 5, name

    def test_layers_with_a_window_are_refused_where_queries_are_read(self):
        lm = hb.LM(models.mistral())
        with pytest.raises(ArgumentError, match="sliding_window"):
            lm.generate(ids(30), keep=hb.recipes.expected_attention(8), max_new_tokens=2)
        assert lm.tree.stats()["branches"] == 0
        assert lm.generate(ids(30), keep=hb.recipes.knorm(8), max_new_tokens=2).token_ids


class TestRerotation:
    def test_kept_keys_lie_before_the_next_token_without_a_gap(self, model, lm):
        """As transformers over a cache whose keys were never rotated for their own positions."""
        import dataclasses

        prompt = ids(90, seed=11)
        recipe = when(hb.recipes.streaming_llm(20), AfterPrefill())
        recipe = dataclasses.replace(recipe, rerotate=True)
        keys, values, queries, token = arrays(model, prompt)
        kept = hb.keep.plan(recipe, keys, values, queries)
        frequencies = hb.keep.rotate.inverse_frequencies(model)
        ks, vs = [], []
        for layer in range(LAYERS):
            k, v = [], []
            for head in range(HEADS):
                index = kept[layer][0][head]
                by = torch.arange(20) - index
                k.append(hb.keep.rotate.turn(keys[layer, 0, head, index], by, frequencies))
                v.append(values[layer, 0, head, index])
            ks.append(torch.stack(k)[None])
            vs.append(torch.stack(v)[None])
        # Distances are all that rotary embeddings know: the cache is 20 long and the text goes on there.
        want = continued(model, ks, vs, 20, token, 10)
        out = lm.generate(prompt, keep=recipe, max_new_tokens=10, draft=None)
        assert out.token_ids == want
        repeated = dataclasses.replace(recipe, when=EveryTokens(4))
        assert len(lm.generate(prompt, keep=repeated, max_new_tokens=20, draft=None).token_ids) == 20


@pytest.mark.parametrize("name", ["knorm", "ems", "snap_kv"])
def test_torch_s_default_type_changes_nothing(lm, name):
    options = {"max_new_tokens": 6, "keep": RECIPES[name]("50%")}
    right = lm.generate(ids(40), **options).token_ids
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert lm.generate(ids(40), **options).token_ids == right
    finally:
        torch.set_default_dtype(torch.float32)
