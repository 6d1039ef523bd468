"""QueryMoments that are added up batch by batch, against those of all queries at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbeam.engine.eviction.moments import QueryMoments
from tests.reference import keep as reference

DIM = 6
FREQUENCIES = (1.0, 0.3, 0.01)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    gaps=st.lists(st.integers(1, 4), min_size=60, max_size=60),
    sinks=st.integers(0, 6),
    turned=st.booleans(),
    seed=st.integers(0, 999),
)
def test_batches_give_the_moments_of_all(
    sizes: list[int], gaps: list[int], sinks: int, turned: bool, seed: int
) -> None:
    total = sum(sizes)
    if total == 0:
        return
    positions = (np.cumsum(gaps[:total]) - 1).astype(np.int32)
    rows = torch.from_numpy(np.random.default_rng(seed).normal(2.0, 1.0, (2, 3, total, DIM))).float()
    frequencies = FREQUENCIES if turned else None
    moments = QueryMoments(sinks, frequencies)
    for own, at in zip(rows.split(sizes, dim=2), np.split(positions, np.cumsum(sizes)[:-1]), strict=True):
        moments.add(at, own)
    length = int(positions[-1]) + 1
    mean, covariance = moments.expected(length, 5)
    for layer in range(2):
        for head in range(3):
            want = reference.expected_queries(
                rows[layer, head].double().numpy(), positions, length, 5, sinks, frequencies
            )
            np.testing.assert_allclose(mean[layer, head], want[0], rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(covariance[layer, head], want[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("far", [0.0, 1e4])
def test_a_distant_mean_costs_no_digits(far: float) -> None:
    rows = torch.from_numpy(np.random.default_rng(3).normal(far, 1.0, (1, 1, 4000, DIM)))
    moments = QueryMoments(0, None)
    for first in range(0, 4000, 100):
        moments.add(np.arange(first, first + 100, dtype=np.int32), rows[:, :, first : first + 100])
    _, covariance = moments.expected(4000, 1)
    want = np.cov(rows[0, 0].numpy(), rowvar=False, bias=True)
    np.testing.assert_allclose(covariance[0, 0], want, atol=1e-9)
