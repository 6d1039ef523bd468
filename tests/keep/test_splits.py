"""Budgets: exact sums for everything, and each split against its definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbeam import keep
from hornbeam.errors import ArgumentError, ShapeError
from tests.reference import keep as reference

SHAPES = dict(
    layers=st.integers(1, 9),
    heads=st.integers(1, 4),
    tokens=st.integers(1, 60),
    total=st.integers(0, 1200),
    sinks=st.integers(0, 4),
    recent=st.integers(0, 5),
    seed=st.integers(0, 1000),
)


def scores_of(layers: int, heads: int, tokens: int, seed: int) -> torch.Tensor:
    """Rough values, so that there are ties."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 9, (layers, heads, tokens)) / 8).float()


def make_splits(layers: int, heads: int, seed: int) -> list[keep.Split]:
    random = np.random.default_rng(seed)
    return [
        keep.Uniform(),
        keep.Pyramid(),
        keep.Pyramid(1),
        keep.Pyramid(slope="fitted"),
        keep.GlobalPrefix(),
        keep.GlobalPrefix(tuple(random.random(layers))),
        keep.AcrossHeads(),
        keep.AcrossHeads(0.7, "reserve"),
        keep.HeadScores(tuple(map(tuple, random.random((layers, heads)) ** 8))),
        keep.LayerGroups(2),
        keep.LayerGroups(3, 1),
    ]


@settings(max_examples=150, deadline=None)
@given(**SHAPES)
def test_budgets_sum_exactly_and_kept_sets_have_their_size(
    layers: int, heads: int, tokens: int, total: int, sinks: int, recent: int, seed: int
) -> None:
    scores = scores_of(layers, heads, tokens, seed)
    protected = (sinks, recent, 0)
    for split in make_splits(layers, heads, seed):
        budgets, kept = split.select(scores, total, protected, 1)
        assert budgets.sum() == min(total, scores.numel()), split
        assert torch.equal(kept.sum(2), budgets.long()), split
        assert budgets.min() >= 0
        for layer in range(layers):
            leader = layer - layer % split.size if isinstance(split, keep.LayerGroups) else layer
            for head in range(heads):
                want = reference.kept_tokens(
                    scores[leader, head].tolist(), int(budgets[layer, head]), protected
                )
                assert kept[layer, head].nonzero().flatten().tolist() == want, split


@settings(max_examples=100, deadline=None)
@given(**SHAPES)
def test_pyramid_and_groups_are_arithmetic(
    layers: int, heads: int, tokens: int, total: int, sinks: int, recent: int, seed: int
) -> None:
    scores = scores_of(layers, heads, tokens, seed)
    floor = min(sinks + recent, tokens)
    got = keep.Pyramid(7).budgets(scores, total, (sinks, recent, 0)).flatten().tolist()
    assert got == reference.pyramid(layers, heads, tokens, total, floor, 7)
    got = keep.Pyramid(7, "fitted").budgets(scores, total, (sinks, recent, 0)).flatten().tolist()
    assert got == reference.fitted_pyramid(layers, heads, tokens, total, floor, 7)
    got = keep.LayerGroups(2, 5).budgets(scores, total, (sinks, recent, 0)).flatten().tolist()
    assert got == reference.layer_groups(layers, heads, tokens, total, floor, 2, 5)


@settings(max_examples=100, deadline=None)
@given(**SHAPES)
def test_global_prefix_is_what_bisection_finds(
    layers: int, heads: int, tokens: int, total: int, sinks: int, recent: int, seed: int
) -> None:
    # Continuous scores: layers that reach a share at the same key would need a rule for ties.
    scores = torch.from_numpy(np.random.default_rng(seed).random((layers, 1, tokens)) ** 4 + 0.01).float()
    floor = min(sinks + recent, tokens)
    total = min(total, scores.numel())
    budgets = keep.GlobalPrefix().budgets(scores, total, (sinks, recent, 0)).flatten().numpy()
    if total < floor * layers:
        return
    lengths = reference.prefix_lengths(scores[:, 0].double().numpy(), floor, total)
    # The first keys of all layers enter together; otherwise the two agree.
    if total >= (floor or 1) * layers:
        assert (budgets >= lengths).all()
        assert budgets.sum() - lengths.sum() <= 1


@settings(max_examples=100, deadline=None)
@given(**SHAPES, alpha=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_heads_compete(
    layers: int, heads: int, tokens: int, total: int, sinks: int, recent: int, seed: int, alpha: float
) -> None:
    scores = scores_of(1, heads, tokens, seed)
    total = min(total, scores.numel())
    equal = total // heads
    mixed = keep.AcrossHeads(alpha).budgets(scores, total)[0].tolist()
    free = reference.competition(scores[0].tolist(), total, 0)
    for got, count in zip(mixed, free, strict=True):
        assert abs(got - ((1 - alpha) * count + alpha * total / heads)) < 1
    if equal > 0:
        reserved = keep.AcrossHeads(alpha, "reserve").budgets(scores, total)[0].tolist()
        assert reserved == reference.competition(scores[0].tolist(), total, int(equal * alpha))


def test_heads_compete_for_less_than_a_key_each() -> None:
    """With nothing protected an equal share of no key is no reason to give up the competition."""
    scores = torch.tensor([[[0.5, 0.5], [0.75, 1.0]]])
    assert keep.AcrossHeads(0.0).budgets(scores, 1)[0].tolist() == [0, 1]


def test_groups_share_the_indices_of_their_first_layer() -> None:
    scores = scores_of(4, 2, 40, 0)
    budgets, kept = keep.LayerGroups(2, 2).select(scores, 4 * 2 * 10, (0, 0, 0), 1)
    assert budgets.unique().tolist() == [10]
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(kept[2], kept[3])
    assert not torch.equal(kept[0], kept[2])


def test_units_are_kept_whole() -> None:
    scores = torch.tensor([0.0, 1.0, 5.0, 5.0, 3.0, 3.0, 9.0]).view(1, 1, -1)
    for total in range(8):
        budgets, kept = keep.Uniform().select(scores, total, (0, 1, 0), 2)
        assert kept.flatten().nonzero().flatten().tolist() == reference.kept_tokens(
            scores.flatten().tolist(), total, (0, 1, 0), 2
        )
        assert kept.sum() <= budgets.sum()


def test_special_scores_are_ordered() -> None:
    scores = torch.tensor([float("nan"), float("-inf"), -0.0, 0.0, float("inf"), 1.0]).view(1, 1, -1)
    order = [keep.Uniform().select(scores, n, (0, 0, 0), 1)[1].flatten() for n in range(7)]
    entered = [(b.long() - a.long()).argmax().item() for a, b in itertools.pairwise(order)]
    assert entered == [4, 5, 2, 3, 1, 0]


def test_a_profile_is_calibrated_saved_and_followed(tmp_path) -> None:
    samples = [scores_of(3, 2, n, n) + torch.tensor([1.0, 4.0, 0.1]).view(3, 1, 1) for n in (20, 30)]
    split = keep.GlobalPrefix.calibrate(samples, 0.5)
    assert split.profile is not None
    assert sum(split.profile) / 3 == pytest.approx(0.5, abs=0.01)
    split.save(tmp_path / "profile.json")
    assert keep.GlobalPrefix.load(tmp_path / "profile.json") == split
    budgets = split.budgets(scores_of(3, 2, 100, 0), 300).double().mean(1)
    np.testing.assert_allclose(budgets.numpy(), 100 * np.array(split.profile), atol=1.01)
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(ArgumentError, match="no profile"):
        keep.GlobalPrefix.load(tmp_path / "other.json")
    with pytest.raises(ShapeError, match="profile is 3"):
        split.budgets(scores_of(2, 2, 9, 0), 4)


def test_head_scores_are_summed_over_groups() -> None:
    split = keep.HeadScores.from_query_heads(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 2, floor=0.0)
    assert split.scores == ((3.0, 7.0),)
    assert split.budgets(scores_of(1, 2, 50, 0), 50).tolist() == [[15, 35]]
    with pytest.raises(ShapeError, match="head scores"):
        split.budgets(scores_of(2, 2, 9, 0), 4)
    with pytest.raises(ArgumentError, match="expected finite numbers"):
        keep.HeadScores(((-1.0,),))
