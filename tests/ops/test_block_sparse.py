"""Attention over chosen blocks against dense attention in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hornbeam.ops as ops
from hornbeam import _native
from hornbeam.errors import ArgumentError, ShapeError
from tests.reference.prefill import dense_attention, seen_by

INSTRUCTION_SETS = _native.instruction_sets()[0]
#: How far float32 arithmetic, and the rounding of the result, may be from float64.
BOUNDS = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def arrays(seed: int, heads: int, kv_heads: int, rows: int, keys: int, dim: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((heads, rows, dim), (kv_heads, keys, dim), (kv_heads, keys, dim))
    return [torch.randn(size, generator=generator) for size in sizes]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    rows=st.integers(1, 200),
    before=st.integers(0, 200),
    dim=st.sampled_from([4, 7, 16, 64, 80, 128]),
    block_rows=st.sampled_from([1, 16, 31, 128]),
    block_keys=st.sampled_from([1, 16, 50, 128]),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from(list(BOUNDS)),
)
def test_equals_dense_attention_over_the_same_keys(
    seed: int,
    kv_heads: int,
    group: int,
    rows: int,
    before: int,
    dim: int,
    block_rows: int,
    block_keys: int,
    share: float,
    dtype: torch.dtype,
) -> None:
    heads, keys = kv_heads * group, rows + before
    q, k, v = (x.to(dtype) for x in arrays(seed, heads, kv_heads, rows, keys, dim))
    blocks = torch.rand(heads, -(-rows // block_rows), -(-keys // block_keys)) < share
    lse = torch.full((rows, heads), torch.nan)
    out = ops.block_sparse_attention(
        q, k, v, blocks, scale=0.2, block_rows=block_rows, block_keys=block_keys, lse=lse
    )
    seen = seen_by(blocks, block_rows, block_keys, rows, keys)
    want, log = dense_attention(q, k, v, 0.2, seen)
    torch.testing.assert_close(out.double(), want, atol=BOUNDS[dtype], rtol=BOUNDS[dtype])
    torch.testing.assert_close(lse.double(), log, atol=2e-5, rtol=2e-5)


def test_everything_read_is_torchs_causal_attention() -> None:
    q, k, v = arrays(1, 6, 2, 333, 333, 64)
    blocks = torch.ones(6, 3, 3, dtype=torch.bool)
    want = torch.nn.functional.scaled_dot_product_attention(
        q[None], k[None], v[None], is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(
        ops.block_sparse_attention(q, k, v, blocks), want[0].transpose(0, 1), atol=1e-5, rtol=1e-5
    )


def test_bits_depend_on_neither_threads_nor_instructions() -> None:
    q, k, v = arrays(2, 4, 2, 300, 500, 48)
    blocks = torch.rand(4, 3, 32) < 0.4
    want = ops.block_sparse_attention(q, k, v, blocks, block_keys=16)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for isa in INSTRUCTION_SETS:
            out = torch.empty_like(want)
            _native.block_sparse_attention(q, k, v, blocks, out, None, None, 128, 16, isa=isa)
            assert torch.equal(out, want)
    finally:
        torch.set_num_threads(threads)


def test_strided_arrays_and_outputs() -> None:
    q, k, v = arrays(3, 4, 2, 70, 90, 32)
    blocks = torch.rand(4, 2, 3) < 0.7
    want = ops.block_sparse_attention(q, k, v, blocks, block_rows=64, block_keys=32)
    q, k, v = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k, v))
    wide = torch.zeros(70, 8, 32)
    got = ops.block_sparse_attention(q, k, v, blocks, block_rows=64, block_keys=32, out=wide[:, 2:6])
    assert torch.equal(got, want)
    assert not wide[:, :2].any()
    assert not wide[:, 6:].any()


def test_a_row_without_keys_gives_zeros() -> None:
    q, k, v = arrays(4, 2, 1, 20, 20, 8)
    blocks = torch.zeros(2, 2, 2, dtype=torch.bool)
    blocks[:, 0, 1] = True  # all its keys lie after the rows
    lse = torch.zeros(20, 2)
    out = ops.block_sparse_attention(q, k, v, blocks, block_rows=10, block_keys=10, lse=lse)
    assert not out.any()
    assert bool((lse == -torch.inf).all())


def test_no_rows() -> None:
    q, k, v = arrays(5, 2, 1, 0, 20, 8)
    assert ops.block_sparse_attention(q, k, v, torch.zeros(2, 0, 1, dtype=torch.bool)).shape == (0, 2, 8)


def test_infinite_values_stay_with_the_rows_that_see_them() -> None:
    q, k, v = arrays(6, 2, 1, 40, 40, 8)
    blocks = torch.ones(2, 1, 1, dtype=torch.bool)
    want = ops.block_sparse_attention(q, k, v, blocks)
    v[0, 30] = torch.inf
    k[0, 35] = torch.nan
    got = ops.block_sparse_attention(q, k, v, blocks)
    torch.testing.assert_close(got[:30], want[:30])
    assert bool((got[30:35] == torch.inf).all())
    assert bool(got[35:].isnan().all())


def test_refusals() -> None:
    q, k, v = arrays(7, 4, 2, 20, 30, 8)
    blocks = torch.ones(4, 1, 1, dtype=torch.bool)
    call = ops.block_sparse_attention
    with pytest.raises(ArgumentError, match="block_rows is 0, expected at least 1"):
        call(q, k, v, blocks, block_rows=0)
    with pytest.raises(ArgumentError, match="block_rows is 2000, expected 1 to 1024"):
        call(q, k, v, blocks, block_rows=2000)
    with pytest.raises(ArgumentError, match="block_keys is -1, expected at least 1"):
        call(q, k, v, blocks, block_keys=-1)
    with pytest.raises(
        ShapeError, match=r"blocks is a tensor of shape \[4, 1, 1\], expected shape \[4, 2, 1\]"
    ):
        call(q, k, v, blocks, block_rows=10)
    with pytest.raises(ShapeError, match="blocks is float32, expected bool"):
        call(q, k, v, blocks.float())
    with pytest.raises(ArgumentError, match="num_heads is 3, expected a multiple of num_kv_heads, 2"):
        call(q[:3], k, v, blocks[:3])
    with pytest.raises(ArgumentError, match="num_keys is 10, expected at least the number of rows, 20"):
        call(q, k[:, :10], v[:, :10], blocks)
    with pytest.raises(ShapeError, match="v is bfloat16, expected the type of k, float32"):
        call(q, k, v.bfloat16(), blocks)
    with pytest.raises(ShapeError, match=r"q.shape is \[20, 8\], expected \[H, N, D\]"):
        call(q[0], k, v, blocks)
    with pytest.raises(ShapeError, match="out"):
        call(q, k, v, blocks, out=torch.zeros(4, 20, 8))
    with pytest.raises(ShapeError, match="expected rows that do not overlap"):
        call(q, k, v, blocks, out=torch.zeros(4, 20, 8).transpose(0, 1))
    shared = torch.zeros(20, 4, 8)
    with pytest.raises(ArgumentError, match="memory"):
        call(shared.transpose(0, 1), k, v, blocks, out=shared)
