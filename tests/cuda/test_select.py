"""Which keys stay: emulated CUDA gives the budgets and the kept sets of Rust, whatever the split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hornbeam import _native, cuda, keep
from hornbeam.errors import ShapeError
from tests.cuda.emulator import Device, Emulation, on_the_device, place
from tests.reference import keep as reference

pytestmark = pytest.mark.usefixtures("backend")

SPLITS = {
    "uniform": lambda layers, heads: keep.Uniform(),
    "pyramid": lambda layers, heads: keep.Pyramid(7),
    "head_scores": lambda layers, heads: keep.HeadScores(
        tuple(tuple(float((layer + 2 * head) % 3) for head in range(heads)) for layer in range(layers))
    ),
    "layer_groups": lambda layers, heads: keep.LayerGroups(2, 5),
    "global_prefix": lambda layers, heads: keep.GlobalPrefix(),
    "profile": lambda layers, heads: keep.GlobalPrefix(tuple(0.2 + 0.1 * i for i in range(layers))),
    "mixed": lambda layers, heads: keep.AcrossHeads(),
    "free": lambda layers, heads: keep.AcrossHeads(0.0),
    "reserved": lambda layers, heads: keep.AcrossHeads(0.6, "reserve"),
}
#: Keys of each plane: alike, none anywhere, and what evictions by head leave.
COUNTS = [
    np.full((3, 2), 37),
    np.zeros((2, 2)),
    np.array([[40, 3, 17], [0, 0, 0], [1, 260, 5]]),
    np.array([[1]]),
    np.array([[9, 9], [0, 70], [33, 2], [5, 5], [64, 64]]),
]
#: Scores: all different, few values and both zeros, what is no number or endless, one value, all negative.
KINDS = {
    "random": lambda random, n: random.standard_normal(n) ** 2,
    "ties": lambda random, n: random.choice([0.0, -0.0, 0.5, -1.5, 2.0**-140], n),
    "special": lambda random, n: random.choice([np.nan, -np.nan, np.inf, -np.inf, 1e38, -3e38, 0.0], n),
    "constant": lambda random, n: np.full(n, 0.25),
    "negative": lambda random, n: -random.random(n),
}
PROTECTED = [(0, 0, 0), (2, 3, 0), (1, 2, 50), (100, 1000, 0)]


def cpu(
    split: keep.Split, scores: torch.Tensor, counts: np.ndarray, positions: np.ndarray, *rest: object
) -> tuple[torch.Tensor, torch.Tensor]:
    budgets = torch.empty(counts.shape, dtype=torch.int32)
    kept = torch.empty(len(scores), dtype=torch.bool)
    total, protected, unit = rest
    _native.keep_select(split.spec(), scores, counts, positions, total, protected, unit, budgets, kept)
    return budgets, kept


def planes_of(random: np.random.Generator, counts: np.ndarray, apart: bool) -> np.ndarray:
    """Positions of planes; with `apart` no two hold the same ones."""
    if not apart:
        return np.concatenate([np.arange(n) for n in counts.flat]).astype(np.int32)
    held = [np.sort(random.permutation(n + n // 2 + 3)[:n]) for n in counts.flat]
    return np.concatenate(held).astype(np.int32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SPLITS)
def test_budgets_and_kept_sets_are_those_of_rust(simt: Emulation | Device, name: str, kind: str) -> None:
    random = np.random.default_rng(len(name) + 100 * len(kind))
    trials = kept_some = 0
    for trial, counts in enumerate(COUNTS):
        counts = counts.astype(np.int32)
        split, size = SPLITS[name](*counts.shape), int(counts.sum())
        scores = torch.from_numpy(KINDS[kind](random, size)).float()
        positions = planes_of(random, counts, apart=trial % 2 == 0)
        for total in (0, 1, counts.size, size // 3, size - 1, size, size + 9):
            protected, unit = PROTECTED[(trial + total) % 4], (1, 1, 3, 8)[(trial + total) // 2 % 4]
            rest = max(total, 0), protected, unit
            want = cpu(split, scores, counts, positions, *rest)
            with on_the_device():
                got = cuda.select_keys(split.spec(), scores.to(place()), counts, positions, *rest)
            assert torch.equal(got[0], want[0]), (counts, rest)
            assert torch.equal(got[1].cpu(), want[1]), (counts, rest)
            trials, kept_some = trials + 1, kept_some + (0 < int(want[1].sum()) < size)
    assert kept_some > trials // 4


@pytest.mark.parametrize("name", ["uniform", "mixed", "reserved", "global_prefix"])
def test_kept_sets_are_those_of_the_reference(name: str) -> None:
    random = np.random.default_rng(5)
    for total in (1, 30, 111):
        scores = torch.from_numpy(random.integers(0, 9, (2, 3, 50)) / 8).float()
        split = SPLITS[name](2, 3)
        with on_the_device():
            budgets, kept = split.select(scores.to(place()), total, (2, 3, 0), 1)
        assert torch.equal(budgets, split.budgets(scores, total, (2, 3, 0)))
        for layer in range(2):
            for head in range(3):
                want = reference.kept_tokens(
                    scores[layer, head].tolist(), int(budgets[layer, head]), (2, 3, 0)
                )
                assert kept[layer, head].nonzero().flatten().tolist() == want


def test_every_byte_of_a_place_decides(simt: Emulation | Device) -> None:
    """Ties among more keys than two bytes count."""
    counts = np.array([[70_000, 300]], np.int32)
    positions = planes_of(np.random.default_rng(0), counts, apart=False)
    scores = torch.zeros(70_300)
    scores[69_000:69_010] = 1.0
    for split in (keep.Uniform(), keep.AcrossHeads(0.01, "reserve"), keep.GlobalPrefix()):
        for total in (600, 68_500):
            rest = total, (1, 2, 0), 1
            want = cpu(split, scores, counts, positions, *rest)
            with on_the_device():
                got = cuda.select_keys(split.spec(), scores.to(place()), counts, positions, *rest)
            assert torch.equal(got[0], want[0])
            assert torch.equal(got[1].cpu(), want[1])


def test_what_does_not_fit_is_refused() -> None:
    scores, positions = torch.ones(6, device=place()), np.arange(6, dtype=np.int32)
    rest = 3, (0, 0, 0), 1
    with on_the_device():
        for counts in ([[3, 4]], [3, 3], [[7, -1]]):
            with pytest.raises(ShapeError):
                cuda.select_keys(keep.Uniform().spec(), scores, np.array(counts, np.int32), positions, *rest)
        two = np.array([[3, 3]], np.int32)
        with pytest.raises(ShapeError):
            cuda.select_keys(keep.HeadScores(((1.0,),)).spec(), scores, two, positions, *rest)
        with pytest.raises(ShapeError):
            cuda.select_keys(keep.Uniform().spec(), scores, two, positions[:5], *rest)
    budgets = torch.empty(1, 2, dtype=torch.int32)
    for split, question, answer in (
        (keep.Uniform(), "heads", [1, 2]),
        (keep.AcrossHeads(), "nothing", []),
        (keep.AcrossHeads(), "heads", [1]),
        (keep.GlobalPrefix(), "nothing", []),
        (keep.GlobalPrefix(), "columns", [1, 1, 0]),
    ):
        with pytest.raises(ShapeError, match="expected one to the question of the split"):
            _native.keep_answered(
                split.spec(), two, 3, (0, 0, 0), question, np.array(answer, np.int32), budgets
            )
