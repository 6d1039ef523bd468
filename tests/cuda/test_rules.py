"""The rules that draw, bias and penalties: emulated CUDA decides as Rust does, on random cases.

Rust is held to the definitions and proved by enumeration in tests/ops; here the kernels are held to
Rust, decision by decision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hornbeam import Warp, ops
from hornbeam.errors import ArgumentError, LogitsError, ShapeError
from tests.cuda.emulator import Device, Emulation, current, on_the_device, place
from tests.cuda.plans import DTYPES

#: Sequences a rule, in launches of 500.
CASES, BATCH = 10_000, 500
RULES = ["without_replacement", "chain", "block", "target_only", "with_replacement", "typical"]
WARPS = [
    Warp(),
    Warp(temperature=0.7),
    Warp(),
    Warp(temperature=0.0),
    Warp(temperature=2.0, top_k=3),
    Warp(),
    Warp(top_p=0.8),
    Warp(temperature=1.4),
    Warp(min_p=0.1),
    Warp(temperature=1.3, top_k=9, top_p=0.9, min_p=0.02),
    Warp(bias={0: 2.0, 1: -torch.inf, 9: -1.5, 10**6: 3.0}),
    Warp(temperature=0.8, repetition_penalty=1.3, frequency_penalty=0.4, presence_penalty=0.2),
    Warp(frequency_penalty=-0.3, bias={2: 1.0}),
]


@pytest.fixture(autouse=True)
def ordered(backend: Emulation | Device) -> None:
    """Every test begins with the same order of threads."""
    backend.seed(3)


def on_device(*arguments: Any, **options: Any) -> ops.Verified:
    """hornbeam.ops where the kernels run: the emulation takes CPU tensors meanwhile."""
    with on_the_device():
        there = [a.to(place()) if isinstance(a, torch.Tensor) and a.ndim == 2 else a for a in arguments]
        return ops.verify(*there, **options)


def batch(random: np.random.Generator, count: int, vocabulary: int, dtype: torch.dtype, chains: bool) -> Any:
    """Trees with the logits of a target and of a draft that resembles it."""
    sizes = random.integers(0, 5, count)
    parents = [i - 1 if chains else int(random.integers(-1, i)) for size in sizes for i in range(size)]
    total = len(parents) + count
    target = torch.from_numpy(random.standard_normal((total, vocabulary)).astype(np.float32)) * 1.5
    draft = target + torch.from_numpy(random.standard_normal((total, vocabulary)).astype(np.float32))
    flat = torch.from_numpy(random.random(total) < 0.1)
    target[flat] = target[flat].round()
    holes = torch.from_numpy(random.random((total, vocabulary)) < 0.1)
    holes[:, 0] = False  # the one token that no warp below forbids
    target[holes] = -torch.inf
    wide = torch.from_numpy(random.standard_normal((total, 2)).astype(np.float32))
    draft = torch.cat([draft, wide], dim=1)[:, : vocabulary + int(random.integers(-1, 3))]
    # Tokens near the top of the draft's logits, so that walks are long.
    tokens = torch.from_numpy(random.integers(0, vocabulary + 2, len(parents)))
    likely = draft.argsort(dim=-1, descending=True)[: len(parents), int(random.integers(2)) % draft.shape[1]]
    tokens = torch.where(torch.from_numpy(random.random(len(parents)) < 0.7), likely, tokens)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
    return tokens, torch.tensor(parents, dtype=torch.int32), offsets, target.to(dtype), draft.to(dtype)


def draws(random: np.random.Generator, count: int, vocabulary: int) -> dict[str, Any]:
    lengths = random.integers(0, 6, (count, 2))
    history = [
        (random.integers(0, vocabulary, a).tolist(), random.integers(0, vocabulary, b).tolist())
        for a, b in lengths
    ]
    return {
        "seed": int(random.integers(1 << 63)),
        "positions": torch.from_numpy(random.integers(0, 1 << 31, count)),
        "sequences": torch.from_numpy(random.integers(0, 1 << 31, count)),
        "history": history,
        "warp": [WARPS[i] for i in random.integers(0, len(WARPS), count)],
        "draft_warp": [WARPS[i] for i in random.integers(0, len(WARPS), count)],
    }


def same(got: ops.Verified, want: ops.Verified) -> None:
    for name, expected in want._asdict().items():
        found = getattr(got, name).cpu()
        assert torch.equal(found, expected), (name, (found != expected).nonzero()[:3])
    assert got.paths() == want.paths()


@pytest.mark.parametrize("rule", [*RULES, "coupled"])
def test_decisions_are_those_of_rust(rule: str) -> None:
    random = np.random.default_rng(RULES.index(rule) if rule in RULES else 99)
    accepted = refused = 0
    for launch in range(CASES // BATCH):
        vocabulary = (3, 12, 33, 5)[launch % 4]
        case = batch(random, BATCH, vocabulary, DTYPES[launch % 3], rule in ("chain", "block"))
        options = {"rule": rule, **draws(random, BATCH, vocabulary)}
        want = ops.verify(*case, **options)
        current().seed(launch)
        same(on_device(*case, **options), want)
        accepted += int(want.num_accepted.sum())
        refused += len(case[0]) - int(want.num_accepted.sum())
    assert min(accepted, refused) > CASES // 10


@pytest.mark.parametrize("rule", RULES)
def test_a_large_vocabulary(rule: str) -> None:
    """Many threads, runs of several tokens a bin, tokens found behind the first warp of a run."""
    random = np.random.default_rng(7)
    for vocabulary, dtype in ((5_003, torch.float32), (70_001, torch.bfloat16)):
        case = batch(random, 4, vocabulary, dtype, rule in ("chain", "block"))
        options = {"rule": rule, **draws(random, 4, vocabulary)}
        same(on_device(*case, **options), ops.verify(*case, **options))


@pytest.mark.parametrize("rule", [*RULES, "coupled"])
def test_without_the_logits_of_a_draft(rule: str) -> None:
    random = np.random.default_rng(11)
    case = batch(random, 60, 7, torch.float32, rule in ("chain", "block"))[:4]
    options = {"rule": rule, **draws(random, 60, 7)}
    same(on_device(*case, **options), ops.verify(*case, **options))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("side", ["target", "draft"])
def test_a_faulty_row_that_the_walk_reads_is_named(side: str, bad: float) -> None:
    random = np.random.default_rng(3)
    case = list(batch(random, 5, 6, torch.float32, True))
    broken = case[3 if side == "target" else 4]
    row = int(case[2][3]) + 3  # the root of the fourth sequence
    broken[row] = bad
    options = {"rule": "chain", "positions": torch.arange(5)}
    with pytest.raises(LogitsError) as rust:
        ops.verify(*case, **options)
    with pytest.raises(LogitsError) as kernels:
        on_device(*case, **options)
    assert str(kernels.value) == str(rust.value)


def test_bad_arguments_are_refused() -> None:
    logits = torch.zeros(3, 4)
    tree = (
        torch.tensor([1, 2]),
        torch.tensor([-1, -1], dtype=torch.int32),
        torch.tensor([0, 2], dtype=torch.int32),
    )
    at = {"positions": torch.zeros(1, dtype=torch.int64)}
    with pytest.raises(ArgumentError, match="expected 0: this rule verifies chains"):
        on_device(*tree, logits, logits, rule="chain", **at)
    with pytest.raises(ArgumentError, match="history is None"):
        on_device(*tree, logits, rule="coupled", warp=Warp(presence_penalty=1.0), **at)
    with pytest.raises(ArgumentError, match="a token of the history is 4, expected 0 to 3"):
        on_device(*tree, logits, rule="coupled", warp=Warp(presence_penalty=1.0), history=[([1], [4])], **at)
    with pytest.raises(ArgumentError, match="rule is 'best'"):
        on_device(*tree, logits, rule="best", **at)
    with pytest.raises(ArgumentError, match="positions is None"):
        on_device(*tree, logits, rule="coupled")
    with pytest.raises(ShapeError, match="target_logits rows is 2, expected 3"):
        on_device(*tree, logits[:2], rule="coupled", **at)
    with pytest.raises(ShapeError, match="draft_logits rows is 2, expected 3"):
        on_device(*tree, logits, logits[:2], rule="without_replacement", **at)
