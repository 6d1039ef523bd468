"""The padded step of a captured graph, run by the emulation: the same text as without it.

What a device adds, capture and replay themselves, is tested by ``make test-cuda`` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import hornbeam as hb
from hornbeam import _native, cuda
from hornbeam.engine import graphs
from hornbeam.errors import ArgumentError
from tests import models
from tests.cuda.emulator import Device, Emulation, on_the_device, place
from tests.drafts import Foresight

SAMPLING = dict(temperature=0.9, top_k=40, top_p=0.95, seed=(7 << 32) + 5)
NEW_TOKENS = 14


@dataclass
class Bush:
    """Knows the text, and hides it: at every depth a wrong child comes before the right one."""

    texts: list[Sequence[int]]
    depth: int = 3

    def start(self, prompt_ids: Sequence[int]) -> _Drafter:
        prompt = list(prompt_ids)
        text = next(t for t in self.texts if list(t[: len(prompt)]) == prompt)
        return _Drafter(len(prompt), list(text), self.depth)


class _Drafter:
    def __init__(self, length: int, text: list[int], depth: int) -> None:
        self.length, self.text, self.depth = length, text, depth

    def extend(self, token_ids: Sequence[int]) -> None:
        self.length += len(token_ids)

    def propose(self, pending: int, max_length: int) -> Any:
        right = self.text[self.length + 1 : self.length + 1 + min(self.depth, max_length // 2)]
        tokens = [t for token in right for t in ((token + 1) % 256, token)]
        parents = [p for level in range(len(right)) for p in (2 * level - 1, 2 * level - 1)]
        return _Tree(tokens, parents, hb.spec.Signals([0.8] * len(tokens)))


@dataclass
class _Tree:
    tokens: list[int]
    parents: list[int]
    signals: Any


@dataclass(frozen=True)
class Whole:
    """Verifies all of every draft, trees included."""

    needs_costs = False

    def start(self, cost: Any) -> Whole:
        return self

    def choose(self, proposals: Sequence[Any]) -> list[Any]:
        return [list(range(len(p.tokens))) for p in proposals]

    def observe(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def model(backend: Emulation | Device) -> Any:
    return models.llama().to(place())


@pytest.fixture
def running(backend: Emulation | Device) -> Iterator[None]:
    backend.seed(3)
    with on_the_device():
        yield


def prompts() -> list[list[int]]:
    return [models.prompt(n, seed)[0].tolist() for n, seed in ((30, 1), (7, 3), (30, 1))]


@pytest.mark.parametrize("options", [{}, SAMPLING], ids=["greedy", "sampled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padded_steps_write_the_same_text(
    model: Any, dtype: torch.dtype, options: dict[str, Any], running: None
) -> None:
    plain = hb.LM(model, kv_dtype=dtype).generate(prompts(), max_new_tokens=NEW_TOKENS, draft=None, **options)
    want = [out.token_ids for out in plain]
    texts = [p + text for p, text in zip(prompts(), want, strict=True)]
    lm = hb.LM(model, kv_dtype=dtype, cuda_graphs=True)
    assert lm.graphs is not None
    for draft, length in (
        (None, Whole()),
        (Foresight(texts, wrong=4), hb.spec.Fixed(3)),
        (Bush(texts), Whole()),
    ):
        outs = lm.generate(prompts(), max_new_tokens=NEW_TOKENS, draft=draft, length=length, **options)
        assert [out.token_ids for out in outs] == want
        if draft is not None:
            assert sum(out.stats.accepted for out in outs) > NEW_TOKENS
        lm.tree.debug_check()
    assert len(lm.graphs) >= 3
    assert lm.graphs.plan_buffers.generation >= 1


def test_every_step_is_a_padded_one(model: Any, running: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what cannot be padded is not: penalties, processors, large steps."""
    taken: list[tuple[int, int]] = []
    run = graphs._PaddedStep.run

    def counted(self: Any, *arguments: Any) -> Any:
        taken.append((self.rows, self.sequences))
        return run(self, *arguments)

    monkeypatch.setattr(graphs._PaddedStep, "run", counted)
    lm = hb.LM(model, cuda_graphs=True)
    out = lm.generate(prompts()[:2], max_new_tokens=6, draft=None)
    assert taken == [(2, 2)] * out[0].stats.forward_passes
    taken.clear()
    lm.generate(prompts()[0], max_new_tokens=4, draft=None, warp=hb.Warp(presence_penalty=0.5))
    lm.generate(prompts()[0], max_new_tokens=4, draft=None, logits_processor=lambda _, logits: logits)
    assert taken == []


def test_the_device_moves_the_rows_that_a_commit_keeps(running: None) -> None:
    """The kernel's moves against the tree's own, for random trees."""
    random = np.random.default_rng(5)
    tree = hb.PrefixTree(num_layers=2, num_kv_heads=2, head_dim=32, slabs_per_chunk=24, device=place())
    moved = 0
    for trial in range(12):
        branches = [tree.branch() for _ in range(int(random.integers(1, 4)))]
        for branch in branches:  # ends at any slot of a page
            with tree.step(
                [(branch, random.integers(0, 256, int(random.integers(1, 20))).tolist(), None)]
            ) as step:
                step.commit([range(step.num_rows)])
        requests, order, counts, paths = [], [], [], []
        for branch in branches:
            size = int(random.integers(1, 24))
            parents = [-1, *(int(random.integers(0, i)) for i in range(1, size))]
            path = [int(random.integers(0, size))]
            while parents[path[0]] >= 0:
                path.insert(0, parents[path[0]])
            requests.append((branch, random.integers(0, 256, size).tolist(), parents))
            paths.append(path)
        with tree.step(requests) as step:
            for chunk in tree.chunks:
                chunk.copy_(torch.randn(chunk.shape))
            order = [int(row) for own in step.rows for row in own]
            counts = [len(tokens) - 1 for _, tokens, _ in requests]
            plan = cuda.DevicePlan(
                step.plan, tree.chunks, num_heads=6, num_kv_heads=2, num_rows=len(order) + 3
            )
            accepted = torch.full((len(requests), 24), -1, dtype=torch.int32)
            for b, path in enumerate(paths):
                accepted[b, : len(path) - 1] = torch.tensor(path[1:])
            host = [
                torch.tensor(order, dtype=torch.int32),
                torch.tensor([0, *np.cumsum(counts)], dtype=torch.int32),
                accepted,
                torch.tensor([len(path) - 1 for path in paths], dtype=torch.int32),
            ]
            there = [tensor.to(place()) for tensor in host]
            before = [chunk.clone() for chunk in tree.chunks]
            _native.cuda_commit_rows(cuda.lane(), plan.words, *there, tree.chunks[0])
            by_kernel = [chunk.clone() for chunk in tree.chunks]
            for chunk, old in zip(tree.chunks, before, strict=True):
                chunk.copy_(old)
            step.commit(paths)
        for chunk, other in zip(tree.chunks, by_kernel, strict=True):
            assert torch.equal(chunk, other), trial
        moved += any(not torch.equal(a, b) for a, b in zip(before, by_kernel, strict=True))
        for branch in branches:
            branch.release(keep=False)
    assert moved > 6


def test_buckets() -> None:
    assert [graphs.bucket(n) for n in (1, 2, 3, 4, 5, 17, 64, 65)] == [1, 2, 4, 4, 8, 32, 64, 128]


def test_graphs_need_a_device() -> None:
    with pytest.raises(ArgumentError, match="cuda_graphs is True for a model on cpu, expected a CUDA device"):
        hb.LM(models.llama(), cuda_graphs=True)
