"""Causal attention of a prompt over chosen blocks of its keys."""

from __future__ import annotations

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.errors import ArgumentError, ShapeError

__all__ = ["block_sparse_attention"]


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    *,
    scale: float | None = None,
    block_rows: int = 128,
    block_keys: int = 128,
    out: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """``softmax(scale * q k^T) v`` for every row and head, over the keys of the blocks that its block of rows
    reads, up to the row's own position.

    The N rows are the last of the M positions: row ``i`` sees no key after position ``M - N + i``. Keys of
    blocks that are not named are not read. The softmax over the others is exact, in float32; the result is
    the same bits for any number of threads and on any instruction set. On the CPU.

    Args:
        q: queries `[H, N, D]`, rotated; float32, bfloat16 or float16, any strides with a unit last one. `D`
            is at most 512.
        k: keys `[Hk, M, D]`, rotated, of any of these types; query head `h` reads kv head `h // (H / Hk)`.
        v: values, of the shape and type of `k`.
        blocks: bool `[H, ceil(N / block_rows), ceil(M / block_keys)]`, contiguous: which block of rows reads
            which block of keys. Blocks of rows are counted from the first row, blocks of keys from the first
            key.
        scale: factor of the scores; `D ** -0.5` where not given.
        block_rows: rows of a block of rows, 1 to 1,024.
        block_keys: keys of a block of keys, at least 1.
        out: takes the result: `[N, H, D]`, any of the three types, rows that do not overlap.
        lse: float32 `[N, H]`, takes the logarithm of the softmax denominators.

    Returns:
        `out`, or a new tensor `[N, H, D]` of the type of `q`. A row that reads no key gives zeros.

    Raises:
        ShapeError: a shape, type, stride or device differs from these.
        ArgumentError: a value outside of its range, or an output that may not be written.
    """
    for name, size in (("block_rows", block_rows), ("block_keys", block_keys)):
        if size < 1:
            raise ArgumentError(f"{name} is {size}, expected at least 1")
    if not isinstance(q, Tensor):
        raise ArgumentError(f"q is a {type(q).__name__}, expected a tensor")
    if q.dim() != 3:
        raise ShapeError(f"q.shape is {list(q.shape)}, expected [H, N, D]")
    if out is None:
        heads, rows, dim = q.shape
        out = torch.empty(rows, heads, dim, dtype=q.dtype, device=q.device)
    _native.block_sparse_attention(q, k, v, blocks, out, lse, scale, block_rows, block_keys)
    return out
