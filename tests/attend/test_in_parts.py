"""Sparse prefill part by part."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hornbeam as hb
from hornbeam.attend import FlexPrefill, HeadPattern, HeadPatterns, InParts, MInference
from hornbeam.attend.prefill import PrefillRecipe
from hornbeam.attend.prefill.cost import CostModel
from hornbeam.errors import ArgumentError
from tests import models
from tests.reference import prefill as reference

SCALE = 0.3
RECIPES: list[PrefillRecipe] = [
    FlexPrefill(0.6, 0.3, 4, block=16, block_keys=4, cost=None),
    MInference(
        HeadPatterns((tuple([HeadPattern("vertical_slash", 3, 5)] * 4),)), last_rows=8, block=16, cost=None
    ),
]


def normal(seed: int, *sizes: int) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 150),
    before=st.integers(0, 60),
    parts=st.integers(1, 9),
    least=st.sampled_from([1, 20, 64]),
    recipe=st.sampled_from(RECIPES),
)
def test_a_part_reads_what_a_prompt_that_ends_there_reads(
    seed: int, rows: int, before: int, parts: int, least: int, recipe: PrefillRecipe
) -> None:
    query, key = normal(seed, 4, rows, 8), normal(seed + 1, 2, before + rows, 8)
    found = InParts(recipe, parts, least).plan(0, query, key, SCALE)
    seen = reference.seen_by(found.blocks, 16, found.grid.block_keys, rows, before + rows)
    part = 16 * math.ceil(max(math.ceil(rows / parts), least) / 16)
    for begin in range(0, rows, part):
        end = min(begin + part, rows)
        alone = recipe.plan(0, query[:, begin:end], key[:, : before + end], SCALE)
        own = reference.seen_by(alone.blocks, 16, alone.grid.block_keys, end - begin, before + end)
        assert torch.equal(seen[:, begin:end, : before + end], own)
        assert not seen[:, begin:end, before + end :].any()


def test_one_part_is_the_recipe() -> None:
    query, key = normal(1, 4, 100, 8), normal(2, 2, 130, 8)
    for recipe in RECIPES:
        whole, parts = (one.plan(0, query, key, SCALE) for one in (recipe, InParts(recipe, 1)))
        assert torch.equal(whole.blocks, parts.blocks)
        assert whole.patterns == parts.patterns
        assert whole.estimated_mass == parts.estimated_mass


def test_what_only_rows_in_the_midst_read_is_read() -> None:
    """Rows up to 512 read key 200, later ones key 0: the last rows know nothing of it."""
    query, key = torch.zeros(1, 1024, 2), torch.zeros(1, 1024, 2)
    key[0, 200], key[0, 0] = torch.tensor([40.0, 0.0]), torch.tensor([0.0, 40.0])
    query[0, :512, 0] = query[0, 512:, 1] = 1.0
    recipe = FlexPrefill(0.9, 0.0, min_budget=1, block=32, block_keys=32, cost=None)
    covered = [
        float(one.plan(0, query, key, 1.0).covered_mass(query, key, 1.0))
        for one in (recipe, InParts(recipe, 4, 1))
    ]
    assert covered[0] < 0.75
    assert covered[1] > 0.95


def test_pattern_and_mass_of_parts_that_differ() -> None:
    class Changing(FlexPrefill):
        def plan(self, layer: int, query: Tensor, key: Tensor, scale: float):  # type: ignore[no-untyped-def]
            gamma = 0.9 if key.shape[1] > 64 else 0.3
            return FlexPrefill(gamma, float(key.shape[1] > 64), 0, block=32).plan(layer, query, key, scale)

    query, key = normal(3, 2, 128, 8), normal(4, 1, 128, 8)
    found = InParts(Changing(block=32), 2, 64).plan(0, query, key, SCALE)
    assert found.patterns == ("mixed", "mixed")
    first = Changing().plan(0, query[:, :64], key[:, :64], SCALE).estimated_mass
    assert found.estimated_mass == first, "the least of the parts"


def test_what_looking_costs() -> None:
    recipe = FlexPrefill(block=32, min_budget=0)
    assert recipe.looked_at(300, 400) == 32 * 400
    assert recipe.looked_at(20, 400) == 20 * 400
    # Parts of 100 rows, in whole blocks, end at keys 228, 356 and 400.
    assert InParts(recipe, 3, 1).looked_at(300, 400) == 32 * (228 + 356 + 400)
    query = key = value = normal(5, 2, 512, 8)
    pairs = 512 * 513 // 2
    for look, is_sparse in ((0.4, True), (0.6, False)):
        # Half of all pairs is expected to be read, and may be looked at for the other half.
        cost = CostModel(look=look * pairs / (32 * 512 * 2.5), pair=1e-9, share=0.5, margin=2.0)
        parts = InParts(FlexPrefill(block=32, min_budget=0, cost=cost), 4, 1)
        assert (parts.attention(0, query, key, value, SCALE) is not None) == is_sparse


def test_the_recipe_says_what_is_read_densely() -> None:
    query = key = value = normal(6, 2, 512, 8)
    for cost, is_sparse in ((None, True), (CostModel(look=1e9), False)):
        parts = InParts(FlexPrefill(block=32, min_budget=0, cost=cost), 4, 1)
        assert parts.cost is cost
        assert (parts.attention(0, query, key, value, SCALE) is not None) == is_sparse


def test_a_text_that_is_written_behind_it() -> None:
    lm = hb.LM(models.llama())
    prompt = models.prompt(300, 1)[0].tolist()
    everything = InParts(FlexPrefill(1.0, 0.0, block=32, cost=None), 5, 32)
    dense = lm.generate(prompt, max_new_tokens=8)
    assert lm.generate(prompt, max_new_tokens=8, prefill=everything).token_ids == dense.token_ids


def test_recipes() -> None:
    recipes = hb.recipes
    assert recipes.flex_prefill(0.95, parts=1) == FlexPrefill(0.95)
    assert recipes.flex_prefill(0.95, parts=8) == InParts(FlexPrefill(0.95), 8)
    assert recipes.minference(parts=4, always=True) == InParts(MInference(cost=None), 4)
    with pytest.raises(ArgumentError, match="parts is 0, expected 1 or more"):
        recipes.flex_prefill(parts=0)


def test_refusals() -> None:
    with pytest.raises(ArgumentError, match="parts is 0, expected 1 or more"):
        InParts(FlexPrefill(), 0)
    with pytest.raises(ArgumentError, match="min_rows is -1, expected 1 or more"):
        hb.attend.InParts(FlexPrefill(), 4, -1)
