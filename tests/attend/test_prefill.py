"""Recipes of sparse prefill against the papers (tests/reference/prefill.py)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import hornbeam as hb
from hornbeam.attend import FlexPrefill, HeadPattern, HeadPatterns, MInference
from hornbeam.attend.prefill import Grid, PrefillRecipe
from hornbeam.attend.prefill.lines import LastRows, smallest_set
from hornbeam.attend.prefill.pooled import divergence
from hornbeam.errors import ArgumentError, ShapeError
from tests.reference import prefill as reference

SCALE = 0.3


def arrays(
    seed: int, heads: int, kv_heads: int, rows: int, keys: int, dim: int = 16
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values with some keys and distances that stand out."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    query, key, value = normal(heads, rows, dim), normal(kv_heads, keys, dim), normal(kv_heads, keys, dim)
    key[:, :: max(keys // 5, 1)] += 4 * query.mean(dim=(0, 1))
    common = normal(1, 1, dim)
    return query + common, key + common, value


def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    seen = torch.ones(len(query), query.shape[1], key.shape[1], dtype=torch.bool)
    return reference.dense_attention(query, key, value, SCALE, seen.tril(key.shape[1] - query.shape[1]))[0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 90),
    before=st.integers(0, 90),
    gamma=st.sampled_from([0.0, 0.3, 0.9, 0.95]),
    tau=st.sampled_from([0.0, 0.2, 0.35, 1.0]),
    min_budget=st.sampled_from([0, 1, 20]),
    sizes=st.sampled_from([(16, 16), (16, 4), (32, 8), (13, 1)]),
)
def test_flex_prefill_chooses_as_the_paper_says(
    seed: int,
    rows: int,
    before: int,
    gamma: float,
    tau: float,
    min_budget: int,
    sizes: tuple[int, int],
) -> None:
    block, block_keys = sizes
    query, key, _ = arrays(seed, 4, 2, rows, rows + before)
    recipe = FlexPrefill(gamma, tau, min_budget, block=block, block_keys=block_keys)
    found = recipe.plan(0, query, key, SCALE)
    for head in range(4):
        pattern, table, clear = reference.flex_prefill(
            query[head],
            key[head // 2],
            SCALE,
            gamma=gamma,
            tau=tau,
            min_budget=min_budget,
            block=block,
            block_keys=block_keys,
        )
        assume(clear > 1e-5)  # float32 may see a tie the other way
        assert found.patterns[head] == pattern
        assert found.blocks[head].tolist() == table.tolist()


def test_both_patterns_occur() -> None:
    kinds = set()
    for seed in range(20):
        query, key, _ = arrays(seed, 4, 2, 80, 100)
        kinds |= set(
            FlexPrefill(tau=0.3, min_budget=0, block=16, block_keys=4).plan(0, query, key, SCALE).patterns
        )
    assert kinds == {"query_aware", "vertical_slash"}


PATTERNS = [
    HeadPattern("stream", 5, 20),
    HeadPattern("vertical_slash", 9, 30),
    HeadPattern("block_sparse", 2),
]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 90),
    before=st.integers(0, 60),
    sizes=st.sampled_from([(16, 16), (16, 4), (13, 1)]),
)
def test_minference_reads_its_patterns(seed: int, rows: int, before: int, sizes: tuple[int, int]) -> None:
    block, block_keys = sizes
    query, key, _ = arrays(seed, 3, 1, rows, rows + before)
    keys = rows + before
    recipe = MInference(
        HeadPatterns((tuple(PATTERNS),)),
        last_rows=8,
        forced_verticals=3,
        forced_slashes=4,
        block=block,
        block_keys=block_keys,
    )
    found = recipe.plan(0, query, key, SCALE)
    assert found.patterns == ("stream", "vertical_slash", "block_sparse")
    sizes_of = {"rows": rows, "keys": keys, "block_rows": block, "block_keys": block_keys}
    stream = reference.lines_to_blocks(set(range(5)), set(range(20)), **sizes_of)
    assert found.blocks[0].tolist() == stream.tolist()
    p = reference.probabilities(query[1, -8:], key[0], SCALE)
    chosen = []
    for mass, always, count in zip(reference.lines(p, keys), (3, 4), (9, 30), strict=True):
        order = sorted(range(keys), key=lambda i: (i >= always, i if i < always else -mass[i], i))
        if count < keys:
            assume(abs(mass[order[count - 1]] - mass[order[count]]) > 1e-6 * mass.max())
        chosen.append({i for i in order[:count] if i < keys})
    # Lines without any mass may be counted, but no more of them than there are.
    lines = reference.lines_to_blocks(chosen[0], chosen[1], **sizes_of)
    assert found.blocks[1].tolist() == lines.tolist()
    for row_block in range(found.blocks.shape[1]):
        end = keys - rows + min((row_block + 1) * block, rows)
        means = torch.stack([part.double().mean(0) for part in key[0].split(block)])[: -(-end // block)]
        own = query[2, row_block * block : (row_block + 1) * block].double().mean(0)
        scores = (means @ own).tolist()
        wide = {0, *range((keys - rows + row_block * block) // block, -(-end // block))}
        order = sorted(range(len(scores)), key=lambda i: (i not in wide, -scores[i]))
        taken = set(order[:2])
        read = {
            narrow * block_keys // block for narrow in found.blocks[2, row_block].nonzero().flatten().tolist()
        }
        if len(wide) <= 2:
            assert read == taken


@pytest.mark.parametrize(
    "recipe",
    [
        FlexPrefill(1.0, 0.0, block=32, block_keys=8, cost=None),
        FlexPrefill(1.0, 1.0, block=32, block_keys=32, cost=None),
        FlexPrefill(0.1, 0.1, min_budget=10_000, block=32, block_keys=16, cost=None),
        MInference(HeadPatterns((tuple([HeadPattern("stream", 1, 10_000)] * 6),)), block=32, cost=None),
        MInference(HeadPatterns((tuple([HeadPattern("block_sparse", 100)] * 6),)), block=32, cost=None),
        MInference(block=32, cost=None),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("rows", "keys"), [(256, 256), (301, 301), (75, 301), (1, 280)])
def test_everything_chosen_is_dense_attention(recipe: PrefillRecipe, rows: int, keys: int) -> None:
    query, key, value = arrays(3, 6, 2, rows, keys)
    found = recipe.plan(0, query, key, SCALE)
    assert found.share_read == 1.0
    out = found.attention(query, key, value, SCALE)
    torch.testing.assert_close(out.double(), dense(query, key, value), atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(found.covered_mass(query, key, SCALE), torch.ones(6, dtype=torch.float64))


def test_the_output_is_exact_over_what_is_chosen() -> None:
    query, key, value = arrays(4, 6, 2, 333, 500)
    recipe = FlexPrefill(0.5, 0.2, min_budget=16, block=32, block_keys=8, cost=None)
    found = recipe.plan(0, query, key, SCALE)
    assert 0 < found.share_read < 0.9
    seen = reference.seen_by(found.blocks, 32, 8, 333, 500)
    want, log = reference.dense_attention(query, key, value, SCALE, seen)
    out = recipe.attention(0, query, key, value, SCALE)
    assert out is not None
    torch.testing.assert_close(out.double(), want, atol=2e-5, rtol=2e-5)
    assert found.pairs_read == tuple(seen.sum(dim=(1, 2)).tolist())
    every = torch.ones_like(seen).tril(500 - 333)
    whole = reference.dense_attention(query, key, value, SCALE, every)[1]
    torch.testing.assert_close(
        found.covered_mass(query, key, SCALE), (log - whole).exp().mean(0), atol=1e-5, rtol=1e-5
    )
    pairs = found.pairs(2)
    assert pairs == sorted(pairs)
    assert len(pairs) == int(found.blocks[2].sum())


def test_a_head_depends_on_itself_alone() -> None:
    query, key, _ = arrays(5, 4, 2, 200, 260)
    recipe = FlexPrefill(0.7, 0.25, min_budget=8, block=32, block_keys=8)
    together = recipe.plan(0, query, key, SCALE)
    for head in range(4):
        alone = recipe.plan(0, query[head, None], key[head // 2, None], SCALE)
        assert torch.equal(alone.blocks[0], together.blocks[head])


def test_short_prompts_are_read_densely() -> None:
    query, key, value = arrays(6, 2, 1, 64, 64)
    assert FlexPrefill(block=32, min_budget=64, cost=None).attention(0, query, key, value, SCALE) is None
    assert MInference(block=32, cost=None).attention(0, query, key, value, SCALE) is None


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 60),
    before=st.integers(0, 60),
    block_rows=st.integers(1, 20),
    block_keys=st.integers(1, 20),
)
def test_pairs_of_blocks_are_counted(rows: int, before: int, block_rows: int, block_keys: int) -> None:
    grid = Grid(rows, rows + before, block_rows, block_keys)
    seen = torch.ones(rows, rows + before, dtype=torch.int64).tril(before)
    for i, part in enumerate(seen.split(block_rows) if rows else []):
        for j, block in enumerate(part.split(block_keys, 1)):
            assert int(grid.pairs()[i, j]) == int(block.sum())
            assert bool(grid.causal()[i, j]) == bool(block.any())


def test_masses_of_lines() -> None:
    query, key, _ = arrays(7, 1, 1, 30, 50)
    want = reference.probabilities(query[0, -12:], key[0], SCALE)
    last = LastRows(12, 50)
    last.masses(-query[0], key[0], SCALE)  # what lay there before does not matter
    for mass, line in zip(last.masses(query[0], key[0], SCALE), reference.lines(want, 50), strict=True):
        torch.testing.assert_close(mass, torch.from_numpy(line), atol=1e-6, rtol=1e-5)
        assert math.isclose(float(mass.sum()), 1.0, rel_tol=1e-5)


def test_smallest_sets() -> None:
    mass = torch.tensor([0.1, 0.4, 0.1, 0.4, 0.0], dtype=torch.float64)
    assert smallest_set(mass, 0.4).tolist() == [False, True, False, False, False]
    assert smallest_set(mass, 0.5).tolist() == [False, True, False, True, False]
    assert smallest_set(mass, 0.85).tolist() == [True, True, False, True, False]
    assert smallest_set(mass, 1.0).tolist() == [True, True, True, True, False]
    assert smallest_set(mass, 0.0, least=1).tolist() == [False, True, False, False, False]
    assert smallest_set(mass, 1.0, most=2).tolist() == [False, True, False, True, False]


def test_a_zero_probability_has_a_divergence() -> None:
    first = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    second = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    assert math.isclose(divergence(first, second), math.log(2))
    assert divergence(first, first) == 0.0


def test_patterns_of_heads_in_a_file(tmp_path: Path) -> None:
    patterns = HeadPatterns((tuple(PATTERNS), (PATTERNS[2],)))
    file = tmp_path / "patterns.json"
    patterns.save(file)
    assert HeadPatterns.load(file) == patterns
    assert hb.recipes.minference(file).patterns == patterns
    assert patterns.of(1, 0) == PATTERNS[2]
    assert patterns.of(1, 1) == patterns.of(9, 0) == HeadPattern("vertical_slash", 1000, 6096)
    for text, message in (
        ("{", "is not JSON"),
        ("[]", "holds no patterns of heads"),
        (file.read_text().replace('"version": 1', '"version": 2'), "has version 2, expected 1"),
        (file.read_text().replace('"stream"', '"steam"'), "kind is 'steam', expected one of stream"),
        (file.read_text().replace("layers", "lairs"), "has a head that is no pattern"),
    ):
        file.write_text(text)
        with pytest.raises(ArgumentError, match=message):
            HeadPatterns.load(file)


def test_recipes_are_named() -> None:
    assert hb.recipes.flex_prefill(0.95, 0.2) == FlexPrefill(0.95, 0.2)
    assert hb.recipes.flex_prefill(always=True).cost is None
    assert hb.recipes.minference() == MInference()


def test_refusals() -> None:
    for make, message in (
        (lambda: FlexPrefill(1.5), "gamma is 1.5, expected 0 to 1"),
        (lambda: FlexPrefill(tau=-1.0), "tau is -1.0, expected 0 to 1"),
        (lambda: FlexPrefill(min_budget=-1), "min_budget is -1, expected 0 or more"),
        (lambda: FlexPrefill(max_budget=5), "max_budget is 5, expected 512 or more"),
        (lambda: FlexPrefill(block_keys=24), "block_keys is 24, expected a divisor of block, 128"),
        (lambda: MInference(last_rows=0), "last_rows is 0, expected 1 or more"),
        (lambda: MInference("a.json"), "patterns is 'a.json', expected hornbeam.attend.HeadPatterns"),  # type: ignore[arg-type]
        (lambda: HeadPattern("stripes", 1, 1), "kind is 'stripes', expected one of stream"),
        (lambda: HeadPattern("block_sparse", 1, 1), "second is 1, expected 0 to 0"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make()
    query, key, _ = arrays(8, 4, 2, 10, 20)
    recipe = FlexPrefill()
    for arguments, message in (
        ((query[0], key), "query.shape is"),
        ((query[:3], key), "there are 3 query heads, expected a multiple of 2"),
        ((query, key[:, :, :8]), "expected a head size of 16"),
        ((query, key[:, :5]), "there are 10 queries, expected at most one a key, 5"),
    ):
        with pytest.raises(ShapeError, match=message):
            recipe.plan(0, *arguments, SCALE)


def test_narrow_types_are_widened() -> None:
    query, key, value = (x.bfloat16() for x in arrays(9, 4, 2, 200, 260))
    recipe = FlexPrefill(0.7, 0.25, min_budget=8, block=32, block_keys=8, cost=None)
    found = recipe.plan(0, query, key, SCALE)
    assert torch.equal(found.blocks, recipe.plan(0, query.float(), key.float(), SCALE).blocks)
    out = found.attention(query, key, value, SCALE)
    assert out.dtype == torch.bfloat16
    wide = found.attention(query.float(), key.float(), value.float(), SCALE)
    torch.testing.assert_close(out.float(), wide, atol=2e-2, rtol=2e-2)
