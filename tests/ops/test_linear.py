"""``hornbeam.ops.linear`` against its float64 reference, and its promise about bits."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbeam.errors import ShapeError
from hornbeam.ops import linear
from hornbeam.ops.linear import max_native_rows
from tests.reference import linear as reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def operands(
    rows: int, outputs: int, inputs: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows, inputs), (outputs, inputs), (outputs,)]
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight, bias


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(0, 70),
    outputs=st.integers(1, 40),
    inputs=st.one_of(st.integers(1, 80), st.sampled_from([576, 1023, 1024, 1025, 2100])),
    x_dtype=st.sampled_from(DTYPES),
    weight_dtype=st.sampled_from(DTYPES),
    with_bias=st.booleans(),
    seed=st.integers(0, 1 << 20),
)
def test_agrees_with_the_reference(
    rows: int,
    outputs: int,
    inputs: int,
    x_dtype: torch.dtype,
    weight_dtype: torch.dtype,
    with_bias: bool,
    seed: int,
) -> None:
    x, weight, bias = operands(rows, outputs, inputs, seed)
    x, weight = x.to(x_dtype), weight.to(weight_dtype)
    bias = bias.to(weight_dtype) if with_bias else None
    y = linear(x, weight, bias)
    assert y.dtype == x_dtype
    assert y.shape == (rows, outputs)
    error = (y.double() - reference.linear(x, weight, bias)).abs()
    assert (error <= reference.tolerance(x, weight, bias)).all()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(2, 60),
    outputs=st.integers(1, 70),
    inputs=st.sampled_from([1, 7, 64, 577, 1024, 2049, 3000]),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_bits_do_not_depend_on_the_batch(
    rows: int, outputs: int, inputs: int, dtype: torch.dtype, data: st.DataObject
) -> None:
    x, weight, _ = (t.to(dtype) for t in operands(rows, outputs, inputs))
    whole = linear(x, weight)
    first = data.draw(st.integers(0, rows - 1))
    last = data.draw(st.integers(first + 1, rows))
    assert torch.equal(linear(x[first:last], weight), whole[first:last])
    output = data.draw(st.integers(0, outputs - 1))
    assert torch.equal(linear(x, weight[output:]), whole[:, output:])


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("rows", [1, 2, 5, 16, 50])
def test_bits_do_not_depend_on_the_threads(rows: int) -> None:
    x, weight, bias = operands(rows, 1537, 576)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(linear(x, weight, bias))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_no_inputs_leave_the_bias() -> None:
    bias = torch.tensor([1.0, -2.0])
    assert torch.equal(linear(torch.empty(3, 0), torch.empty(2, 0), bias), bias.expand(3, 2))
    assert linear(torch.empty(0, 4), torch.empty(2, 4)).shape == (0, 2)
    assert linear(torch.empty(3, 4), torch.empty(0, 4)).shape == (3, 0)


def test_leading_dimensions_and_out() -> None:
    x, weight, bias = operands(24, 10, 33)
    out = torch.full((2, 3, 4, 10), torch.nan)
    y = linear(x.view(2, 3, 4, 33), weight, bias, out)
    assert y is out
    assert torch.equal(y.view(24, 10), linear(x, weight, bias))
    assert torch.equal(linear(x[0], weight, bias), y[0, 0, 0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 8, 12])
def test_values_that_are_not_finite_stay_in_their_row(value: float, at: int) -> None:
    x, weight, _ = operands(4, 6, 13)
    clean = linear(x, weight)
    x[2, at] = value
    y = linear(x, weight)
    assert not y[2].isfinite().any()
    assert torch.equal(y[[0, 1, 3]], clean[[0, 1, 3]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 3), torch.ones(4, 5)), r"x is a tensor of shape \[2, 3\], expected shape \[..., 5\]"),
        ((torch.ones(2, 5), torch.ones(4, 5), torch.ones(3)), r"bias is .* expected shape \[4\]"),
        ((torch.ones(2, 5), torch.ones(5)), r"weight is a tensor of shape \[5\]"),
        ((torch.ones(5, 2).T, torch.ones(4, 5)), "x is strided"),
        ((torch.ones(2, 5), torch.ones(5, 4).T), "weight is strided"),
        ((torch.ones(2, 5, dtype=torch.int64), torch.ones(4, 5)), "x is int64"),
        ((torch.ones(2, 5), torch.ones(4, 5), torch.ones(4).half()), "bias is float16"),
        ((torch.ones(2, 5), torch.ones(4, 5), None, torch.ones(2, 3)), r"out is .* expected shape \[2, 4\]"),
        ((torch.ones(2, 5), torch.ones(4, 5), None, torch.ones(2, 4).half()), "out is float16"),
    ],
)
def test_refuses(arguments: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        linear(*arguments)


@pytest.mark.parametrize(("capability", "float32", "half"), [("AVX2", 64, 10**6), ("AVX512", 32, 32)])
def test_the_limit_of_rows_is_that_of_the_machine(capability: str, float32: int, half: int) -> None:
    max_native_rows.cache_clear()
    with mock.patch("torch.backends.cpu.get_cpu_capability", return_value=capability):
        assert max_native_rows(torch.float32) == float32
        for dtype in (torch.bfloat16, torch.float16):
            assert min(max_native_rows(dtype), 10**6) == half
    max_native_rows.cache_clear()
