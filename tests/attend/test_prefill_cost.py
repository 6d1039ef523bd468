"""Where a measured cost model reads densely, with rates instead of a clock."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hornbeam.attend import FlexPrefill
from hornbeam.attend.prefill import CostModel, cost

HEADS, TOKENS, DIM = 2, 400, 8
EVERY = HEADS * TOKENS * (TOKENS + 1) // 2


@pytest.fixture
def arrays() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(HEADS, TOKENS, DIM, generator=generator) for _ in range(3))
    return query, key, value


def rates(monkeypatch: pytest.MonkeyPatch, dense: float, sparse: float) -> None:
    monkeypatch.setattr(cost, "_dense_rate", lambda *_: dense)
    monkeypatch.setattr(cost, "_sparse_rate", lambda *_: sparse)


def test_dense_where_a_pair_costs_much_more(
    monkeypatch: pytest.MonkeyPatch, arrays: tuple[Tensor, Tensor, Tensor]
) -> None:
    rates(monkeypatch, dense=1e-12, sparse=1e3)
    recipe = FlexPrefill(min_budget=0, block=32, block_keys=8, cost=CostModel())
    assert recipe.attention(0, *arrays, 0.3) is None
    assert recipe.cost is not None
    assert not recipe.cost.choice, "nothing was chosen: the least that it reads takes longer already"


def test_sparse_where_it_costs_less(
    monkeypatch: pytest.MonkeyPatch, arrays: tuple[Tensor, Tensor, Tensor]
) -> None:
    rates(monkeypatch, dense=1e3, sparse=1e-12)
    recipe = FlexPrefill(min_budget=0, block=32, block_keys=8, cost=CostModel())
    always = FlexPrefill(min_budget=0, block=32, block_keys=8, cost=None)
    out, want = recipe.attention(0, *arrays, 0.3), always.attention(0, *arrays, 0.3)
    assert out is not None
    assert want is not None
    assert torch.equal(out, want)
    assert recipe.cost is not None
    (measured,) = recipe.cost.sparse.values()
    assert measured > 1e-12, "the call corrected the rate"
    (share,) = recipe.cost.share.values()
    read = always.plan(0, arrays[0], arrays[1], 0.3).share_read
    assert math.isclose(share, read)


def test_what_lost_is_looked_at_now_and_then() -> None:
    model = CostModel(margin=1.0)
    kind = (2, 2, DIM, torch.float32, 1, False)
    place = (kind, 9, "recipe", 0)
    model.dense[kind, 9], model.sparse[kind], model.choice[kind, "recipe"] = 1.0, 1.0, 0.0
    call = cost.Call(model, place, HEADS * TOKENS, EVERY, EVERY // 10)
    assert call.is_worth_a_look(), "nothing is known of the layer"
    assert not call.wins(0.0, EVERY)
    looks = [call.is_worth_a_look() for _ in range(2 * cost.LOOK_AGAIN)]
    assert [i for i, look in enumerate(looks) if look] == [cost.LOOK_AGAIN - 1, 2 * cost.LOOK_AGAIN - 1]
    assert call.wins(0.0, EVERY // 10)
    for _ in range(20):
        call.wins(0.0, EVERY // 10)
    assert call.is_worth_a_look()


def test_choosing_is_counted_before_it_is_done() -> None:
    model = CostModel(margin=1.0)
    kind = (2, 2, DIM, torch.float32, 1, False)
    model.dense[kind, 9], model.sparse[kind] = 1.0, 1.0
    model.choice[kind, "recipe"] = EVERY / (HEADS * TOKENS)  # as long as dense attention
    call = cost.Call(model, (kind, 9, "recipe", 0), HEADS * TOKENS, EVERY, 1)
    assert not call.is_worth_a_look()


def test_rates_are_tried_on_the_arrays_at_hand(arrays: tuple[Tensor, Tensor, Tensor]) -> None:
    model = CostModel()
    call = model.call("recipe", 3, *arrays, 0.3, least=10)
    assert call.every == EVERY
    assert call.dense_seconds > 0
    (kind,) = model.sparse
    assert kind == (HEADS, HEADS, DIM, torch.float32, torch.get_num_threads(), False)
    query, key, value = arrays
    behind = model.call("recipe", 3, query[:, -100:], key, value, 0.3, least=10)
    assert behind.every == HEADS * (100 * 300 + 100 * 101 // 2)
    assert behind.place[0] == (*kind[:5], True)
    assert model.sparse.keys() == {kind, behind.place[0]}
