"""Merges and codes against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbeam import keep
from hornbeam.errors import ArgumentError, ShapeError
from tests.reference import keep as reference

MERGES = {
    "drop": keep.Drop(),
    "evict_then_merge": keep.EvictThenMerge(),
    "value_merge": keep.ValueMerge(),
    "similarity_merge": keep.SimilarityMerge(),
}


def plane(tokens: int, dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    # A common direction, so that cosines are high enough to merge.
    keys = random.standard_normal((tokens, dim)) + 1.5
    return tuple(
        torch.from_numpy(x).float()
        for x in (keys, random.standard_normal((tokens, dim)), random.random(tokens))
    )  # type: ignore[return-value]


@pytest.mark.parametrize("name", MERGES)
@settings(max_examples=50, deadline=None)
@given(tokens=st.integers(0, 24), dim=st.integers(2, 20), seed=st.integers(0, 10**6), data=st.data())
def test_merges_are_those_of_the_definition(name: str, tokens: int, dim: int, seed: int, data) -> None:
    keys, values, scores = plane(tokens, dim, seed)
    kept = data.draw(st.sets(st.integers(0, tokens - 1)) if tokens else st.just(set()))
    kept = sorted(kept)
    got = MERGES[name].reduce(keys, values, scores, torch.tensor(kept, dtype=torch.int64))
    k, v, s = (x.double().numpy() for x in (keys, values, scores))
    weights, keys_too = reference.merge_weights(name, k, v, s, kept)
    np.testing.assert_allclose(got.values.numpy(), weights @ v, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.keys.numpy(), (weights @ k if keys_too else k[kept]), rtol=1e-5, atol=1e-5)
    assert got.merge is not None
    sums = got.merge.own.double()
    merged = got.merge.targets >= 0
    sums.index_add_(0, got.merge.targets[merged].long(), got.merge.weights[merged].double())
    torch.testing.assert_close(sums, torch.ones(len(kept), dtype=torch.float64), rtol=0, atol=1e-6)
    assert (got.merge.weights[~merged] == 0).all()


def test_something_is_merged() -> None:
    """The comparison above would hold for rules that never merge."""
    keys, values, scores = plane(24, 8, 0)
    for name in ("evict_then_merge", "value_merge", "similarity_merge"):
        merge = MERGES[name].reduce(keys, values, scores, torch.arange(0, 24, 3)).merge
        assert merge is not None
        assert (merge.targets >= 0).any()
        assert (merge.targets < 0).any() == (name != "value_merge"), name


def test_constant_keys_merge_into_the_first_slot() -> None:
    keys, values, scores = torch.ones(6, 4), torch.arange(24.0).view(6, 4), torch.zeros(6)
    merge = keep.SimilarityMerge().reduce(keys, values, scores, torch.tensor([1, 4])).merge
    assert merge is not None
    assert merge.targets.tolist() == [0, 0, 0, 0]
    # Scores of zero carry no weight: the kept ones stay as they are.
    got = keep.EvictThenMerge().reduce(keys, values, scores, torch.tensor([1, 4]))
    assert torch.equal(got.values, values[[1, 4]])


def test_indices_are_checked() -> None:
    keys, values, scores = plane(5, 4, 0)
    for bad in ([3, 1], [0, 5], [-1, 2], [1, 1]):
        with pytest.raises(ArgumentError, match="expected ascending indices below 5"):
            keep.Drop().reduce(keys, values, scores, torch.tensor(bad))
    with pytest.raises(ShapeError, match="values"):
        keep.Drop().reduce(keys, values[:3], scores, torch.tensor([0]))


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 40), st.integers(1, 40)),
    bits=st.sampled_from([2, 4, 8]),
    tokens=st.one_of(st.none(), st.integers(1, 12)),
    channels=st.one_of(st.none(), st.integers(1, 12)),
    separable=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_codes_err_by_half_a_step(shape, bits, tokens, channels, separable, seed) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape) * 3).float()
    encoded = keep.quantise.encode(x, bits, tokens=tokens, channels=channels, channel_separable=separable)
    error = (encoded.decode() - x).abs()
    assert (error <= encoded.steps() * 0.5 * (1 + 1e-4) + 1e-6).all()
    x64 = x.double().numpy()
    scale = np.ones(shape[1])
    if separable and shape[0]:
        scale = np.sqrt(np.abs(x64).max(0))
    _, steps = reference.round_trip(x64 / scale, bits, tokens or max(shape[0], 1), channels or shape[1])
    np.testing.assert_allclose(encoded.steps().numpy(), steps * scale, rtol=1e-4, atol=1e-6)
    # Ties may round apart in float32, so that decoded values are held to the step alone.


def test_codes_have_their_size() -> None:
    x = torch.randn(10, 24)
    for bits, width in ((2, 6), (4, 12), (8, 24)):
        encoded = keep.quantise.encode(x, bits)
        assert encoded.codes.shape == (10, width)
        assert encoded.num_bytes == 10 * width + 10 * 8
    constant = keep.quantise.encode(torch.full((4, 8), 3.25), 2)
    assert torch.equal(constant.decode(), torch.full((4, 8), 3.25))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ArgumentError, match="expected finite elements"):
        keep.quantise.encode(torch.tensor([[0.0, bad]]), 4)


def test_mixed_bits_follow_the_scores() -> None:
    keys, values, scores = plane(50, 16, 3)
    got = keep.MixedBits().reduce(keys, values, scores, torch.arange(50))
    low = torch.sort(scores, stable=True).indices[:20].sort().values
    high = torch.sort(scores, stable=True).indices[20:].sort().values
    for indices, bits in ((low, 2), (high, 4)):
        want = keep.quantise.encode(keys[indices], bits, tokens=None, channels=1)
        assert torch.equal(got.keys[indices], want.decode())
        want = keep.quantise.encode(values[indices], bits, channel_separable=True)
        assert torch.equal(got.values[indices], want.decode())
        assert ((got.values[indices] - values[indices]).abs() <= want.steps() * 0.501).all()
    assert got.num_bytes is not None
    assert got.num_bytes < 2 * keys.numel() * 4 * 0.4


def test_the_residual_is_exact() -> None:
    keys, values, scores = plane(100, 32, 4)
    got = keep.KeyChannelValueToken(bits=4).reduce(keys, values, scores, torch.arange(100))
    # 68 tokens lie before the residual, two groups of 32 are sealed.
    assert torch.equal(got.keys[64:], keys[64:])
    assert torch.equal(got.values[64:], values[64:])
    assert (got.keys[:64] != keys[:64]).any()
    short = keep.KeyChannelValueToken().reduce(keys[:32], values[:32], scores[:32], torch.arange(32))
    assert torch.equal(short.keys, keys[:32])
    assert short.num_bytes == 2 * 32 * 32 * 4


def test_eight_bits_are_close() -> None:
    keys, values, scores = plane(20, 16, 5)
    got = keep.TokenBits().reduce(keys, values, scores, torch.arange(3, 17))
    spread = keys[3:17].amax(1, keepdim=True) - keys[3:17].amin(1, keepdim=True)
    assert ((got.keys - keys[3:17]).abs() <= spread / 255 * 0.501).all()
    for make in (
        lambda: keep.TokenBits(3),
        lambda: keep.MixedBits(1.5),
        lambda: keep.KeyChannelValueToken(2, 0),
    ):
        with pytest.raises(ArgumentError, match="expected"):
            make()
