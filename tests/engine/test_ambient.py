"""What is set for all of torch does not reach into a call, as it does not into transformers' own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import hornbeam as hb
from tests import models

PROMPTS = [models.prompt(30, 1)[0].tolist(), models.prompt(19, 2)[0].tolist()]


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")  # as a GPU would be: no tensor of the CPU
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS: dict[str, Any] = {
    "default_device": default_device,
    "deterministic": deterministic,
    "default_dtype": double,
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "one_thread": one_thread,
}


def forbid_seven(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    scores[:, 7] = -torch.inf
    return scores


def everything(lm: hb.LM, small_model: Any) -> list[Any]:
    """One call of each kind."""
    small = hb.LM(small_model)
    draft = hb.spec.SmallModel(small, hb.spec.shape.GumbelTree((2, 1)))
    found: list[Any] = []
    for options in (
        {"draft": None, "repetition_penalty": 1.3},
        {"temperature": 1.0, "top_p": 0.9},
        {"draft": "suffix", "logits_processor": forbid_seven},
        {"draft": "recycling", "temperature": 0.7},
        {
            "draft": draft,
            "verify": "without_replacement",
            "temperature": 1.0,
            "length": hb.spec.Fixed(3),
        },
        {"keep": hb.recipes.ada_kv("50%", window=8)},
        {"keep": hb.recipes.int8(), "draft": None},
        {"logprobs": 2, "echo": True, "draft": None},
    ):
        outs = lm.generate(PROMPTS, max_new_tokens=10, **options)
        found.append([out.token_ids for out in outs])
    request = lm.engine.submit(PROMPTS[0], max_new_tokens=20, temperature=1.0, draft=None)
    for _ in range(3):
        lm.engine.step()
    found.append([child.result().token_ids for child in request.fork(2)])
    found.append([chunk.token_ids for chunk in lm.stream(PROMPTS[1], max_new_tokens=5, draft=None)])
    found.append([round(one.total, 3) for one in lm.score(PROMPTS[0], [[1, 2], [3]])])
    return found


@pytest.fixture(scope="module")
def plain() -> list[Any]:
    return everything(hb.LM(models.llama()), models.llama(layers=1))


@pytest.mark.parametrize("name", SETTINGS)
def test_calls_are_the_same(name: str, plain: list[Any]) -> None:
    model, small = models.llama(), models.llama(layers=1)
    made_before = hb.LM(model)
    with SETTINGS[name]():
        assert everything(made_before, small) == plain
        made_within = hb.LM(model)
        assert everything(made_within, small) == plain
    assert everything(made_within, small) == plain
    assert everything(made_before, small) == plain


@pytest.mark.parametrize("name", SETTINGS)
def test_operations_are_the_same(name: str) -> None:
    logits = torch.randn(4, 50)
    tokens, parents, offsets = torch.tensor([3, 4]), torch.tensor([-1, 0]), torch.tensor([0, 1, 2])
    tokens, parents = torch.tensor([3, 4]), torch.tensor([-1, -1], dtype=torch.int32)
    positions, offsets = torch.tensor([5, 9]), offsets.int()
    keys, values, queries = (torch.randn(1, 1, heads, 40, 8) for heads in (2, 2, 4))

    def work() -> list[Any]:
        verdict = hb.ops.verify(tokens, parents, offsets, logits, warp=hb.Warp(), seed=1, positions=positions)
        kept = hb.keep.plan(hb.recipes.snap_kv("50%", window=4), keys, values, queries)
        return [
            verdict.paths(),
            hb.ops.sample(
                logits, hb.Warp(0.8), seed=2, positions=torch.tensor([1, 2, 3, 4], device="cpu")
            ).tolist(),
            hb.ops.probabilities(logits, hb.Warp(0.8)).sum().item(),
            [plane.tolist() for plane in kept[0][0]],
        ]

    want = work()
    with SETTINGS[name]():
        assert work() == want
