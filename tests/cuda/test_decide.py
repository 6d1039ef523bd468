"""Sampling and verification: Rust and emulated CUDA decide the same, token for token.

Rust itself is held to the definitions in tests/ops; here the CUDA kernels are held to Rust, and on
some cases to the reference as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hornbeam import Warp, cuda, ops
from hornbeam.cuda import device
from hornbeam.errors import LogitsError
from tests.cuda.emulator import Device, Emulation, current, place
from tests.cuda.plans import DTYPES

#: Random rows a combination of warps and element types; three element types and ten warps make 10^4.
ROWS = 336

WARPS = [
    Warp(temperature=0.0),
    Warp(),
    Warp(temperature=0.7),
    Warp(temperature=3.0, top_k=7),
    Warp(top_p=0.9),
    Warp(temperature=0.8, top_p=0.95, top_k=40),
    Warp(min_p=0.05),
    Warp(temperature=1.3, top_k=20, top_p=0.5, min_p=0.02),
    Warp(top_k=1),
    Warp(temperature=0.5, top_p=1e-9),
]


@pytest.fixture(autouse=True)
def driver(monkeypatch: pytest.MonkeyPatch, backend: Emulation | Device) -> None:
    """hornbeam.cuda with the back end's driver; CPU tensors where it is the emulation."""
    monkeypatch.setattr(device, "_lane", backend.lane)
    backend.seed(3)


def rows(random: np.random.Generator, count: int, dtype: torch.dtype, vocabulary: int) -> torch.Tensor:
    """Logits of many kinds: spread, peaked, tied (bf16 and rounded ones tie often), partly -inf."""
    kinds = random.integers(0, 5, count)
    logits = torch.from_numpy(random.standard_normal((count, vocabulary)).astype(np.float32))
    logits[kinds == 0] *= 8
    logits[kinds == 1] = logits[kinds == 1].round()
    logits[kinds == 2] = 0
    logits[kinds == 3] *= 30
    holes = torch.from_numpy(random.random((count, vocabulary)) < 0.5) & torch.from_numpy(kinds == 4)[:, None]
    holes[:, int(random.integers(vocabulary))] = False
    logits[holes] = -torch.inf
    return logits.to(dtype)


def on_device(logits: torch.Tensor, warp: Warp | list[Warp], **draws: Any) -> torch.Tensor:
    batch = logits.shape[0]
    none = torch.empty(0, dtype=torch.int32)
    offsets = torch.zeros(batch + 1, dtype=torch.int32)
    draws = {"seed": 0, "sequences": None, **draws}
    return cuda.verify(none.long(), none, offsets, logits.to(place()), warp=warp, **draws)[0].next_token.cpu()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("warp", WARPS, ids=str)
def test_sample_says_what_rust_says(warp: Warp, dtype: torch.dtype) -> None:
    random = np.random.default_rng(1)
    for vocabulary, count in [(3, 80), (130, 128), (601, ROWS - 80 - 128)]:
        logits = rows(random, count, dtype, vocabulary)
        draws = {
            "seed": int(random.integers(1 << 63)),
            "positions": torch.from_numpy(random.integers(0, 1 << 31, count)),
            "sequences": torch.from_numpy(random.integers(0, 1 << 31, count)),
        }
        want = ops.sample(logits, warp, **draws)
        assert torch.equal(on_device(logits, warp, **draws), want)


def test_a_large_vocabulary() -> None:
    """More tokens than threads take at once, and a thousand threads."""
    random = np.random.default_rng(2)
    logits = rows(random, 4, torch.bfloat16, 50_001)
    positions = torch.arange(4)
    for warp in (Warp(temperature=0.8, top_p=0.95), Warp(top_k=50), Warp(temperature=0.0)):
        want = ops.sample(logits, warp, positions=positions)
        assert torch.equal(on_device(logits, warp, positions=positions), want)


def test_the_order_of_threads_decides_nothing() -> None:
    random = np.random.default_rng(4)
    logits = rows(random, 20, torch.bfloat16, 300)
    warps = [WARPS[i % len(WARPS)] for i in range(20)]
    said = []
    for seed in (0, 1, 17, 18):
        current().seed(seed)
        said.append(on_device(logits, warps, positions=torch.arange(20)))
    assert torch.equal(said[0], ops.sample(logits, warps, positions=torch.arange(20)))
    assert all(torch.equal(other, said[0]) for other in said[1:])


def drafts(random: np.random.Generator, batch: int, vocabulary: int) -> tuple[torch.Tensor, ...]:
    """Random trees, some empty; small vocabularies make walks long."""
    sizes = random.integers(0, 40, batch)
    parents = [int(random.integers(-1, i)) for size in sizes for i in range(size)]
    tokens = random.integers(0, vocabulary, len(parents))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return (
        torch.from_numpy(tokens),
        torch.tensor(parents, dtype=torch.int32),
        torch.from_numpy(offsets.astype(np.int32)),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("warp", [WARPS[0], WARPS[2], WARPS[7]], ids=str)
def test_verify_walks_as_rust_walks(warp: Warp, dtype: torch.dtype) -> None:
    random = np.random.default_rng(5)
    longest = 0
    for trial in range(12):
        vocabulary, batch = (2, 3, 17)[trial % 3], int(random.integers(1, 9))
        tree = drafts(random, batch, vocabulary)
        logits = rows(random, len(tree[0]) + batch, dtype, vocabulary)
        draws = {
            "seed": int(random.integers(1 << 63)),
            "positions": torch.from_numpy(random.integers(0, 1 << 31, batch)),
            "sequences": torch.from_numpy(random.integers(0, 1 << 31, batch)),
        }
        want = ops.verify(*tree, logits, rule="coupled", warp=warp, **draws)
        got, paths = cuda.verify(*tree, logits.to(place()), warp=warp, **draws)
        for name, expected in want._asdict().items():
            assert torch.equal(getattr(got, name).cpu(), expected)
        assert paths == want.paths()
        longest = max(longest, int(want.num_accepted.max()))
    assert longest >= 2


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_faulty_row_is_named_if_the_walk_reads_it(bad: float) -> None:
    tokens, parents = torch.tensor([1, 0]), torch.tensor([-1, 0], dtype=torch.int32)
    offsets = torch.tensor([0, 0, 2], dtype=torch.int32)
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    greedy = Warp(temperature=0.0)
    draws = {"seed": 0, "sequences": None, "positions": None}
    for row in range(4):
        broken = logits.clone()
        broken[row] = bad
        for run in (
            lambda broken=broken: ops.verify(tokens, parents, offsets, broken, rule="coupled", warp=greedy),
            lambda broken=broken: cuda.verify(
                tokens, parents, offsets, broken.to(place()), warp=greedy, **draws
            ),
        ):
            with pytest.raises(LogitsError, match=rf"sequence {min(row, 1)}, row {max(row - 1, 0)} contain"):
                run()
    # A row that the walk does not visit may hold anything.
    logits[1] = torch.tensor([1.0, 0.0])
    logits[2:] = bad
    _, paths = cuda.verify(tokens, parents, offsets, logits.to(place()), warp=greedy, **draws)
    assert paths == [([], 0), ([], 0)]
