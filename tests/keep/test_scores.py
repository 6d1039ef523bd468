"""Scores against their definitions, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbeam import keep
from hornbeam.errors import ArgumentError, ShapeError
from tests.keep.arrays import cache
from tests.reference import keep as reference

FREQUENCIES = (1.0, 0.3, 0.05, 0.01)
SCALE = 0.4

CASES = {
    "window_mass": (keep.WindowMass(4, 3), lambda *a: reference.window_mass(*a, window=4, kernel=3)),
    "window_mass, pool wider than the prompt": (
        keep.WindowMass(2, 9),
        lambda *a: reference.window_mass(*a, window=2, kernel=9),
    ),
    "accumulated_mass": (keep.AccumulatedMass(), reference.accumulated_mass),
    "accumulated_mass, across heads": (
        keep.AccumulatedMass(across_heads=True),
        lambda *a: reference.accumulated_mass(*a, across_heads=True),
    ),
    "normalised_mass": (
        keep.NormalisedMass(0.2, 0.3, seed=5),
        lambda k, *a: reference.normalised_mass(k, *a, rows=reference.probe_rows(k.shape[1], 0.2, 0.3, 5)),
    ),
    "last_query": (keep.LastQuery(), reference.last_query),
    "global_local": (keep.GlobalLocal(3, 3), lambda *a: reference.global_local(*a, window=3, kernel=3)),
    "window_tokens, mean": (
        keep.WindowTokens(4, 3),
        lambda *a: reference.window_tokens(*a, window=4, suffix=3),
    ),
    "window_tokens, max": (
        keep.WindowTokens(4, 3, "max"),
        lambda *a: reference.window_tokens(*a, window=4, suffix=3, pool="max"),
    ),
    "expected_attention": (keep.ExpectedAttention(), reference.expected_attention),
    "expected_attention, rotary": (
        keep.ExpectedAttention(7, 2, 0.01, FREQUENCIES),
        lambda *a: reference.expected_attention(
            *a, future=7, sinks=2, epsilon=0.01, inverse_frequencies=FREQUENCIES
        ),
    ),
    "key_difference": (keep.KeyDifference(), reference.key_difference),
    "key_norm": (keep.KeyNorm(), reference.key_norm),
    "position": (keep.Position(), reference.position),
    "value_weighted, l1": (
        keep.ValueWeighted(keep.LastQuery()),
        lambda k, v, q, s: reference.last_query(k, v, q, s) * np.abs(v).sum(-1),
    ),
    "value_weighted, l2": (
        keep.ValueWeighted(keep.WindowMass(4, 3), "l2"),
        lambda k, v, q, s: reference.window_mass(k, v, q, s, 4, 3) * np.linalg.norm(v, axis=-1),
    ),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    group=st.integers(1, 3),
    tokens=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_scores_are_those_of_the_definition(
    name: str, batch: int, heads: int, group: int, tokens: int, seed: int
) -> None:
    score, definition = CASES[name]
    keys, values, queries = cache(2, batch, heads, group, tokens, tokens, 8, seed)
    got = score.scores(keys, values, queries, SCALE).double().numpy()
    for layer in range(2):
        for b in range(batch):
            arrays = [x[layer, b].double().numpy() for x in (keys, values, queries)]
            want = definition(*arrays, SCALE)
            np.testing.assert_allclose(got[b, layer], want, rtol=1e-5, atol=1e-5)


def test_a_window_needs_no_earlier_queries() -> None:
    keys, values, queries = cache(1, 1, 2, 2, 30, 30, 8)
    score = keep.WindowMass(6)
    everything = score.scores(keys, values, queries, SCALE)
    torch.testing.assert_close(
        everything, score.scores(keys, values, queries[..., -6:, :].contiguous(), SCALE), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("score", "needed"),
    [
        (keep.WindowMass(6), "the last 6 rows"),
        (keep.AccumulatedMass(), "all 30 rows"),
        (keep.GlobalLocal(2), "all 30 rows"),
        (keep.NormalisedMass(0.3), "which hold the probes"),
    ],
)
def test_missing_queries_are_named(score: keep.Score, needed: str) -> None:
    keys, values, queries = cache(1, 1, 2, 2, 30, 5, 8)
    with pytest.raises(ShapeError, match=needed):
        score.scores(keys, values, queries, SCALE)


def test_scores_do_not_depend_on_threads() -> None:
    arrays = cache(3, 2, 2, 3, 200, 200, 16)
    before = torch.get_num_threads()
    outcomes = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            outcomes.append(
                [score.scores(*arrays, SCALE) for score in (keep.WindowMass(), keep.GlobalLocal())]
            )
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*outcomes, strict=True):
        assert torch.equal(one, three)


def test_constant_keys_score_alike() -> None:
    keys, values, queries = cache(1, 1, 1, 1, 12, 12, 8)
    keys[:] = keys[:, :, :, :1]
    for score in (keep.LastQuery(), keep.KeyDifference(), keep.KeyNorm()):
        assert score.scores(keys, values, queries, SCALE).unique().numel() == 1
    zero = torch.zeros_like(keys)
    assert torch.equal(keep.KeyDifference().scores(zero, values, queries, SCALE), torch.zeros(1, 1, 1, 12))


@pytest.mark.parametrize(
    "make",
    [
        lambda: keep.WindowMass(0),
        lambda: keep.WindowMass(8, 4),
        lambda: keep.WindowTokens(pool="median"),  # type: ignore[arg-type]
        lambda: keep.NormalisedMass(1.5),
        lambda: keep.ExpectedAttention(future=0),
        lambda: keep.Position(-1),
    ],
)
def test_parameters_are_checked_at_construction(make) -> None:
    with pytest.raises(ArgumentError, match="expected"):
        make()


def test_rotary_frequencies_must_fit() -> None:
    with pytest.raises(ShapeError, match="inverse_frequencies"):
        keep.ExpectedAttention(inverse_frequencies=(1.0,)).scores(*cache(1, 1, 1, 1, 4, 4, 8), SCALE)
