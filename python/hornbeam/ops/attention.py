"""Attention of a step's rows over the pages that its plan names."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hornbeam import _native, cuda
from hornbeam.errors import ArgumentError

if TYPE_CHECKING:
    from hornbeam._native import Plan, Selection

__all__ = ["tree_attention"]


def tree_attention(
    q: Tensor,
    chunks: list[Tensor],
    plan: "Plan | cuda.DevicePlan",
    *,
    layer: int,
    num_kv_heads: int,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: Tensor | None = None,
    selection: "Selection | None" = None,
    batch_invariant: bool = False,
    out: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """``softmax(scale * q k^T) v`` for every row and head, over the keys that the plan shows each row.

    Accumulates in float32. The result is the same bits for any number of threads and on any
    instruction set; how it is rounded depends on the plan, unless it is to be `batch_invariant`.
    The step's own keys are read from their slots: call :func:`hornbeam.ops.write_rows` first.

    Args:
        q: queries `[num_rows, num_heads, head_dim]`, rotated already; float32, bfloat16 or float16,
            any strides with a unit last one. `head_dim` is at most 512.
        chunks: the pool, tensors `[num_planes, slabs_per_chunk, 2, page_tokens, head_dim]` of any
            of the three dtypes.
        plan: the step's plan.
        layer: physical layer.
        num_kv_heads: key-value heads of a layer; query head `h` reads kv head
            `h // (num_heads / num_kv_heads)`.
        scale: factor of the scores; `head_dim ** -0.5` where not given.
        window: a key is visible iff `row position - key position < window`.
        soft_cap: scores become `soft_cap * tanh(score / soft_cap)` (Gemma 2).
        sinks: float32 `[num_heads]`, a learned logit that takes part in the denominator alone (gpt-oss).
        selection: what of the prefix reads is read, and by whom (``_native.select_pages``); None for all.
            Keys that are not selected are not touched. A selection of everything changes
            rounding alone.
        batch_invariant: the bits of a row depend on its query and on the keys that it sees alone, in their
            order, whatever other rows the plan has and wherever its reads begin and end. Only weights below
            `2**-126` of a row's greatest may be there or not. Slower for one row and for few kv heads. On the
            CPU.
        out: takes the result: shape of `q`, any of the three dtypes, rows that do not overlap, in memory that
            no other argument shares.
        lse: float32 `[num_rows, num_heads]`, takes the logarithm of the softmax denominators, sinks included.

    Returns:
        `out`, or a new tensor of the shape and dtype of `q`. A row that sees no key gives zeros.

    Raises:
        ShapeError: a tensor's shape, dtype, stride or device differs from what the plan and the pool need.
        ArgumentError: a value outside of its range, a plan that names slots outside of the pool, an output
            that may not be written (see ``docs/arrays.md``), a selection of another plan, or one for tensors
            on a device.
    """
    if out is None:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if cuda.is_on_device(q):
        if selection is not None:
            raise ArgumentError("selection is given, expected None: selected pages run on the CPU only yet")
        if batch_invariant:
            raise ArgumentError("batch_invariant is True for tensors on a device, expected the CPU")
        cuda.tree_attention(
            q,
            chunks,
            plan,
            out,
            layer=layer,
            num_kv_heads=num_kv_heads,
            scale=scale,
            window=window,
            soft_cap=soft_cap,
            sinks=sinks,
            lse=lse,
        )
        return out
    # By position: names cost time.
    _native.tree_attention(
        q,
        chunks,
        plan,  # type: ignore[arg-type]
        out,
        lse,
        layer,
        num_kv_heads,
        scale,
        window,
        soft_cap,
        sinks,
        None,
        selection,
        None,
        batch_invariant,
    )
    return out
