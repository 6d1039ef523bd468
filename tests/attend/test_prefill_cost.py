"""Where a prompt is read densely because that costs less: by lengths and what is chosen, not by a clock."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from torch import Tensor

import hornbeam as hb
from hornbeam.attend import FlexPrefill
from hornbeam.attend.prefill import CostModel
from hornbeam.errors import ArgumentError
from tests import models

HEADS, TOKENS, DIM = 2, 400, 8
FREE = CostModel(look=0, pair=0, pair_behind=0)


@pytest.fixture
def arrays() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(HEADS, TOKENS, DIM, generator=generator) for _ in range(3))
    return query, key, value


def recipe(cost: CostModel | None) -> FlexPrefill:
    return FlexPrefill(min_budget=0, block=32, block_keys=8, cost=cost)


def test_sparse_where_it_costs_less(arrays: tuple[Tensor, Tensor, Tensor]) -> None:
    out, want = (recipe(cost).attention(0, *arrays, 0.3) for cost in (FREE, None))
    assert out is not None
    assert want is not None
    assert torch.equal(out, want)


def test_dense_where_choosing_alone_costs_more(
    monkeypatch: pytest.MonkeyPatch, arrays: tuple[Tensor, Tensor, Tensor]
) -> None:
    def plan(*_: object) -> None:
        raise AssertionError("nothing is to be chosen")

    monkeypatch.setattr(FlexPrefill, "plan", plan)
    every = TOKENS * (TOKENS + 1) / 2
    dear = every / (32 * TOKENS)  # as much as dense attention
    assert recipe(CostModel(look=dear, pair=0)).attention(0, *arrays, 0.3) is None


def test_dense_where_more_is_read_than_was_expected(arrays: tuple[Tensor, Tensor, Tensor]) -> None:
    read = recipe(None).plan(0, arrays[0], arrays[1], 0.3).share_read
    for pair, is_sparse in ((0.9 / read, True), (1.1 / read, False)):
        cost = CostModel(look=0, pair=pair, share=0, margin=1)
        assert (recipe(cost).attention(0, *arrays, 0.3) is not None) == is_sparse


def test_rows_behind_a_prefix_have_a_rate_of_their_own(arrays: tuple[Tensor, Tensor, Tensor]) -> None:
    query, key, value = arrays
    for cost, first, behind in (
        (dataclasses.replace(FREE, pair_behind=9), True, False),
        (dataclasses.replace(FREE, pair=9), False, True),
    ):
        assert (recipe(cost).attention(0, query, key, value, 0.3) is not None) == first
        assert (recipe(cost).attention(0, query[:, 100:], key, value, 0.3) is not None) == behind


def test_the_least_that_is_read_counts_before_choosing() -> None:
    cost = CostModel(look=0, pair=1, share=0.5, margin=1)
    every = 100 * 300 + 100 * 101 // 2
    behind = {"num_rows": 100, "num_keys": 400, "looked_at": 10 * 400}
    cost = dataclasses.replace(cost, pair_behind=1)
    assert cost.is_worth_a_look(**behind, least=every - 1)
    assert not cost.is_worth_a_look(**behind, least=every)
    looking = dataclasses.replace(cost, look=every / 2 / (10 * 400))
    assert not looking.is_worth_a_look(**behind, least=0)
    assert dataclasses.replace(looking, share=0.49).is_worth_a_look(**behind, least=0)


class Clock:
    """A machine on which some calls take as long as nothing, others years."""

    def __init__(self, steps: list[float]) -> None:
        self.now, self.calls, self.steps = 0.0, 0, steps

    def __call__(self) -> float:
        self.calls += 1
        self.now += self.steps[self.calls % len(self.steps)]
        return self.now


def test_a_busy_machine_decides_as_an_idle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts in another order and by another clock have the same layers sparse, and the same text."""
    model = models.llama()
    prompts = [models.prompt(count, seed)[0].tolist() for count, seed in ((300, 1), (100, 2), (400, 3))]
    found = []
    for steps, order in (([1e-9], [0, 1, 2, 0]), ([1e-9, 1e6, 3.0], [2, 0, 1, 0])):
        clock = Clock(steps)
        for name in ("perf_counter", "monotonic", "process_time", "thread_time"):
            monkeypatch.setattr(time, name, clock)
        lm = hb.LM(model)
        decided: dict[int, list[list[bool]]] = {}
        texts: dict[int, list[list[int]]] = {}
        for number in order:
            noted = Noted(0.5, min_budget=32, block=32, cost=CostModel(look=1.0, pair=0.9, margin=1.0))
            out = lm.generate(prompts[number], max_new_tokens=4, draft=None, prefill=noted)
            decided.setdefault(number, []).append(list(noted.is_sparse))
            texts.setdefault(number, []).append(out.token_ids)
        assert decided[0][0] == decided[0][1]
        assert texts[0][0] == texts[0][1]
        found.append((decided[0][0], decided[1], decided[2], texts[0][0], texts[1], texts[2]))
    assert found[0] == found[1]
    decisions = [one for layers in (found[0][0], *found[0][1], *found[0][2]) for one in layers]
    assert set(decisions) == {True, False}, "both answers occur, or the test says nothing"


@dataclasses.dataclass(frozen=True)
class Noted(FlexPrefill):
    """A recipe that notes which calls it read sparsely."""

    is_sparse: list[bool] = dataclasses.field(default_factory=list)

    def attention(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor | None:
        out = super().attention(layer, query, key, value, scale)
        self.is_sparse.append(out is not None)
        return out


def test_refusals() -> None:
    for name in ("look", "pair", "pair_behind", "share", "margin"):
        with pytest.raises(ArgumentError, match=f"{name} is -1, expected a number of at least 0"):
            CostModel(**{name: -1})
    with pytest.raises(ArgumentError, match="pair is nan"):
        CostModel(pair=float("nan"))
    with pytest.raises(ArgumentError, match=r"share is 1\.5, expected 0 to 1"):
        CostModel(share=1.5)
