"""Scores of what a branch holds: emulated CUDA gives the bits of Rust, from plain pages and from codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hornbeam import _native, keep, ops
from hornbeam.cuda import scores as device_scores
from hornbeam.engine.eviction.moments import QueryMoments
from hornbeam.errors import CudaError, ShapeError
from tests.cuda.emulator import Device, Emulation, on_the_device, place
from tests.cuda.plans import DTYPES
from tests.cuda.test_codes import pool
from tests.ops.test_quantised_pages import FORMATS

pytestmark = pytest.mark.usefixtures("backend")

LAYERS, KV_HEADS, GROUP = 2, 3, 2
NUM_SEEN = 150
FREQUENCIES = tuple(10_000.0 ** (-i / 16) for i in range(16))
SCORES: dict[str, keep.Score] = {
    "key_norm": keep.KeyNorm(),
    "key_difference": keep.KeyDifference(),
    "expected_attention": keep.ExpectedAttention(sinks=0),
    "turned": keep.ExpectedAttention(future=20, sinks=40, epsilon=0.02, inverse_frequencies=FREQUENCIES),
    "position": keep.Position(),
    "window_mass": keep.WindowMass(window=20, kernel=7),
    "window of all": keep.WindowMass(window=500, kernel=1),
    "accumulated_mass": keep.AccumulatedMass(),
    "across_heads": keep.AccumulatedMass(across_heads=True),
    "normalised_mass": keep.NormalisedMass(),
    "last_query": keep.LastQuery(),
    "global_local": keep.GlobalLocal(window=9, kernel=3),
    "window_tokens": keep.WindowTokens(window=5),
    "greatest of windows": keep.WindowTokens(window=6, suffix=20, pool="max"),
    "magnitudes": keep.ValueWeighted(keep.WindowMass(window=20)),
    "lengths": keep.ValueWeighted(keep.ExpectedAttention(), norm="l2"),
}


class Branch:
    """Planes of any sizes on random slots of a random pool, some of them in codes."""

    def __init__(self, seed: int, dtype: torch.dtype, dim: int, page_tokens: int = 16) -> None:
        self.random = random = np.random.default_rng(seed)
        self.chunks = pool(random, dtype, dim, page_tokens)
        slots = []
        for page, name in enumerate(FORMATS):
            number, tokens = ops.page_formats(self.chunks[0])[name]
            if tokens == 0:
                continue
            sources = [[20 + i // page_tokens, i % page_tokens, page, i] for i in range(tokens)]
            ops.quantise_pages(self.chunks, np.array(sources, np.int32), name, by_page=True)
            slots += [(page, slot | number << 12) for slot in range(tokens)]
        slots += [(page, slot) for page in range(len(FORMATS), 72) for slot in range(page_tokens)]
        sizes = [3, 40, 0, 1, 65, 130]
        self.counts = random.permutation(sizes).astype(np.int32)
        self.positions = np.concatenate(
            [np.sort(random.permutation(NUM_SEEN)[:count]) for count in self.counts]
        ).astype(np.int32)
        chosen = [slots[i] for i in random.integers(0, len(slots), len(self.positions))]
        self.entries = np.column_stack([np.array(chosen), self.positions]).astype(np.int32)
        self.rows = np.arange(NUM_SEEN - 30, NUM_SEEN, 2, dtype=np.int32)
        self.queries = torch.from_numpy(
            random.standard_normal((LAYERS, KV_HEADS * GROUP, len(self.rows), dim))
        ).float()

    def masses(self, score: keep.Score) -> list[tuple[torch.Tensor, np.ndarray]]:
        def one() -> tuple[torch.Tensor, np.ndarray]:
            sums = self.random.integers(0, 1 << 44, len(self.positions)) >> self.random.integers(
                0, 45, len(self.positions)
            )
            return torch.from_numpy(sums), self.random.integers(0, 30, len(self.positions)).astype(np.int32)

        return [one() for _ in _native.keep_rows(score.spec(), NUM_SEEN)]

    def expected(self, score: keep.Score) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What expected attention has of the queries."""
        if isinstance(score, keep.ValueWeighted):
            return self.expected(score.score)
        if not isinstance(score, keep.ExpectedAttention) or len(self.rows) == 0:
            return None
        moments = QueryMoments(score.sinks, score.inverse_frequencies)
        moments.add(self.rows, self.queries)
        return moments.expected(NUM_SEEN, score.future)

    def on_cpu(self, score: keep.Score, masses: list[Any], scale: float) -> torch.Tensor:
        out = torch.empty(len(self.entries))
        expected = self.expected(score)
        _native.keep_scores_resident(
            score.spec(),
            self.chunks,
            _native.KeyTable(self.counts, self.entries),
            self.queries,
            self.rows,
            masses,
            NUM_SEEN,
            KV_HEADS,
            scale,
            out,
            expected and tuple(part.contiguous().view(torch.int64) for part in expected),
        )
        return out

    def on_device(self, score: keep.Score, masses: list[Any], scale: float) -> torch.Tensor:
        with on_the_device():
            return device_scores.score_resident(
                score.spec(),
                [chunk.to(place()) for chunk in self.chunks],
                self.counts,
                self.entries,
                [(sums.to(place()), seen) for sums, seen in masses],
                num_seen=NUM_SEEN,
                num_kv_heads=KV_HEADS,
                group=GROUP,
                scale=scale,
                expected=self.expected(score),
            ).cpu()


def same_bits(got: torch.Tensor, want: torch.Tensor) -> bool:
    nan = want.isnan()
    return torch.equal(got.isnan(), nan) and torch.equal(
        got[~nan].view(torch.int32), want[~nan].view(torch.int32)
    )


@pytest.mark.parametrize("name", SCORES)
def test_the_bits_are_those_of_rust(simt: Emulation | Device, name: str) -> None:
    score = SCORES[name]
    # Probabilities that are all but one or none at first, then alike.
    for seed, (dtype, scale) in enumerate(zip(DTYPES, (0.3, 1e-4, 1e-6), strict=True)):
        branch = Branch(seed, dtype, 32)
        masses = branch.masses(score)
        want = branch.on_cpu(score, masses, scale)
        assert same_bits(branch.on_device(score, masses, scale), want)
        assert len(want.unique()) > (20 if seed else 2)


@pytest.mark.parametrize("dim", [8, 80, 200, 320])
@pytest.mark.parametrize(
    "name", ["key_norm", "key_difference", "expected_attention", "magnitudes", "lengths"]
)
def test_heads_of_any_width(name: str, dim: int) -> None:
    branch = Branch(dim, torch.bfloat16, dim)
    masses = branch.masses(SCORES[name])
    want = branch.on_cpu(SCORES[name], masses, dim**-0.5)
    assert same_bits(branch.on_device(SCORES[name], masses, dim**-0.5), want)


@pytest.mark.parametrize("name", ["across_heads", "last_query", "window_tokens", "greatest of windows"])
def test_heads_that_hold_the_same(name: str) -> None:
    branch = Branch(7, torch.float32, 32)
    branch.counts = np.full(6, 33, np.int32)
    branch.entries = branch.entries[: 6 * 33].copy()
    branch.entries[:, 2] = np.tile(np.sort(branch.random.permutation(NUM_SEEN)[:33]), 6)
    branch.positions = branch.entries[:, 2]
    masses = branch.masses(SCORES[name])
    want = branch.on_cpu(SCORES[name], masses, 1.0)
    assert same_bits(branch.on_device(SCORES[name], masses, 1.0), want)
    assert torch.equal(want[:33], want[33:66])


@pytest.mark.parametrize("name", ["key_norm", "key_difference", "turned", "lengths"])
def test_batches_of_planes_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    branch = Branch(3, torch.float16, 32)
    want = branch.on_cpu(SCORES[name], [], 0.2)
    for batch in (1, 32 * 50, 1 << 23):
        monkeypatch.setattr(device_scores, "_BATCH", batch)
        assert same_bits(branch.on_device(SCORES[name], [], 0.2), want)


def test_rows_without_a_key_or_query() -> None:
    branch = Branch(5, torch.float32, 32)
    branch.queries = branch.queries[:, :, :0].contiguous()
    branch.rows = branch.rows[:0]
    with pytest.raises(ShapeError, match="at least one row"):
        branch.on_device(SCORES["expected_attention"], [], 1.0)
    branch.counts, branch.entries = np.zeros(6, np.int32), branch.entries[:0]
    assert len(branch.on_device(SCORES["key_norm"], [], 1.0)) == 0
    wide = torch.zeros(1, 6, 2, 4, 600, device=place())
    with on_the_device(), pytest.raises(CudaError, match="head_dim is 600, expected 1 to 512"):
        device_scores.score_resident(
            SCORES["expected_attention"].spec(),
            [wide],
            np.array([1, 0, 0, 0, 0, 0], np.int32),
            np.zeros((1, 3), np.int32),
            [],
            num_seen=2,
            num_kv_heads=3,
            group=2,
            scale=1.0,
            expected=(torch.zeros(2, 6, 600).double(), torch.zeros(2, 6, 600, 600).double()),
        )
