"""``write_rows`` and the moves against plain indexing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbeam import ops
from hornbeam._native import Plan
from hornbeam.errors import ArgumentError, ShapeError
from tests.reference import rows as reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def plan_of(slots: np.ndarray) -> Plan:
    """A plan that only says where rows are written."""
    count = len(slots)
    none = {width: np.zeros((0, width), np.int32) for width in (2, 4, 8)}
    steps = np.arange(count, dtype=np.int32)
    return Plan(none[4], np.zeros(0, np.int32), none[2], none[8], steps, steps + 1, slots.astype(np.int32))


def pool(layers: int, heads: int, head_dim: int, dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.randn(layers * heads, 3, 2, 4, head_dim).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("page_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_write_rows_equals_indexing(page_dtype: torch.dtype, dtype: torch.dtype, data: st.DataObject) -> None:
    layers, heads = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    head_dim, count = data.draw(st.sampled_from([1, 3, 4, 8, 20, 64, 512])), data.draw(st.integers(0, 9))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    chunks = pool(layers, heads, head_dim, page_dtype)
    places = data.draw(st.permutations(range(36)))[:count]
    slots = np.array([divmod(p, 4) for p in places], np.int32).reshape(count, 2)
    k, v = torch.randn(2, count, heads, head_dim).to(dtype)
    if data.draw(st.booleans()):
        k = k.transpose(0, 1).contiguous().transpose(0, 1)
    layer = data.draw(st.integers(0, layers - 1))
    expected = [chunk.clone() for chunk in chunks]
    reference.write_rows(k, v, expected, slots, layer)
    ops.write_rows(k, v, chunks, plan_of(slots), layer=layer, num_kv_heads=heads)
    for got, want in zip(chunks, expected, strict=True):
        assert torch.equal(got, want)


def test_narrowing_rounds_ties_to_even_and_keeps_the_extremes() -> None:
    values = [1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, -3.4e38, 1e-40, float("inf"), float("-inf"), -0.0]
    row = torch.tensor(values).reshape(1, 1, 8)
    for dtype in DTYPES:
        chunks = [torch.zeros(1, 1, 2, 1, 8, dtype=dtype)]
        ops.write_rows(row, row, chunks, plan_of(np.array([[0, 0]])), layer=0, num_kv_heads=1)
        bits = torch.int32 if dtype == torch.float32 else torch.int16
        assert torch.equal(chunks[0][0, 0, 0, 0].view(bits), row[0, 0].to(dtype).view(bits))


@pytest.mark.parametrize("threads", [1, 2])
def test_many_rows_are_written_by_several_threads(threads: int) -> None:
    heads, head_dim, count = 4, 64, 2048
    chunks = [torch.zeros(heads, 64, 2, 16, head_dim, dtype=torch.bfloat16) for _ in range(3)]
    slots = np.array([divmod(i + 7, 16) for i in range(count)], np.int32)
    k, v = torch.randn(2, count, heads, head_dim)
    expected = [chunk.clone() for chunk in chunks]
    reference.write_rows(k, v, expected, slots, 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ops.write_rows(k, v, chunks, plan_of(slots), layer=0, num_kv_heads=heads)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(got, want) for got, want in zip(chunks, expected, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_page", [False, True])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_moves_equal_indexing(dtype: torch.dtype, by_page: bool, data: st.DataObject) -> None:
    chunks = pool(2, 1, 8, dtype)
    expected = [chunk.clone() for chunk in chunks]
    places = st.tuples(st.integers(0, (17 if by_page else 8)), st.integers(0, 3))
    moves = data.draw(st.lists(st.tuples(places, places), max_size=8))
    table = np.array([[*a, *b] for a, b in moves], np.int32).reshape(-1, 4)
    (ops.move_page_rows if by_page else ops.move_rows)(chunks, table)
    (reference.move_page_rows if by_page else reference.move_rows)(expected, table)
    assert all(torch.equal(got, want) for got, want in zip(chunks, expected, strict=True))


def test_wrong_arguments_are_named_and_nothing_is_written() -> None:
    chunks = [torch.zeros(4, 3, 2, 4, 8)]
    row, plan = torch.ones(1, 2, 8), plan_of(np.array([[1, 1]]))
    good = {"layer": 0, "num_kv_heads": 2}
    with pytest.raises(ShapeError, match=r"v is .*expected shape \[1, 2, 8\]"):
        ops.write_rows(row, torch.ones(1, 2, 7), chunks, plan, **good)
    with pytest.raises(ShapeError, match=r"k is strided .*expected a unit last stride"):
        ops.write_rows(torch.ones(1, 2, 16)[..., ::2], row, chunks, plan, **good)
    with pytest.raises(ShapeError, match="v is bfloat16, expected float32"):
        ops.write_rows(row, row.bfloat16(), chunks, plan, **good)
    with pytest.raises(ArgumentError, match="layer is 2, expected less than 2"):
        ops.write_rows(row, row, chunks, plan, layer=2, num_kv_heads=2)
    for slot in ([3, 0], [0, 4], [-1, 0]):
        with pytest.raises(ArgumentError, match="row_slots"):
            ops.write_rows(row, row, chunks, plan_of(np.array([slot])), **good)
        with pytest.raises(ArgumentError, match="moves"):
            ops.move_rows(chunks, np.array([[0, 0, *slot]], np.int32))
    with pytest.raises(ArgumentError, match="moves"):
        ops.move_page_rows(chunks, np.array([[12, 0, 0, 0]], np.int32))
    with pytest.raises(TypeError, match="k is a list"):
        ops.write_rows([1.0], row, chunks, plan, **good)
    assert not chunks[0].any()


def test_plans_are_checked_where_an_operation_would_follow_them() -> None:
    empty = {width: np.zeros((0, width), np.int32) for width in (2, 4, 8)}
    one = np.zeros(1, np.int32)
    slot, entry = np.zeros((1, 2), np.int32), np.array([[0, 1 << 16, 0, -1]], np.int32)
    read = np.array([[0, 1, 0, 1, 1, 0, -1, 0]], np.int32)
    plan = Plan(entry, one[:0], empty[2], read, one, one + 1, slot)
    assert plan.num_rows == 1
    assert np.array_equal(plan.entries, entry)
    assert np.array_equal(plan.reads, read)
    with pytest.raises(ArgumentError, match="row_end"):
        Plan(entry, one[:0], empty[2], read, one, one, slot)
    with pytest.raises(ArgumentError, match="read"):
        Plan(
            entry, one[:0], empty[2], read + np.array([0, 1, 0, 0, 0, 0, 0, 0], np.int32), one, one + 1, slot
        )
    with pytest.raises(ArgumentError, match="entry"):
        Plan(entry + np.array([0, 0, 0, 1], np.int32), one[:0], empty[2], read, one, one + 1, slot)
    with pytest.raises(ShapeError, match=r"reads is .*expected shape \[any, 8\]"):
        Plan(entry, one[:0], empty[2], read[:, :4].copy(), one, one + 1, slot)
    with pytest.raises(ShapeError, match="rows of"):
        Plan(entry, one[:0], empty[2], read, one, one + 1, empty[2])
