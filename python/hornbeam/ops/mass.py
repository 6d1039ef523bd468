"""The probability mass that rows of attention give to the keys that they see."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hornbeam import _native, cuda

if TYPE_CHECKING:
    from hornbeam._native import Plan

__all__ = ["MASS_ONE", "attention_mass", "mass_columns"]

#: The integer that stands for probability 1. A sum holds 2^24 of them.
MASS_ONE: int = _native.MASS_ONE


def mass_columns(plan: "Plan", rows: Sequence[int] | Tensor) -> list[tuple[int, int, int]]:
    """What the columns of :func:`attention_mass` are: ``(read, begin, count)`` of every read of the plan
    that one of the rows sees, in the plan's order.

    Rows of one request see the nodes of its branch that have keys, from the root, and then the request's
    own rows: own row `i` is column `begin + i` of the last read.

    Args:
        plan: the step's plan.
        rows: ascending rows of it.

    Raises:
        ArgumentError: rows are not ascending rows of the plan.
    """
    return _native.mass_columns(plan, rows if isinstance(rows, Tensor) else list(rows))


def attention_mass(
    q: Tensor,
    chunks: list[Tensor],
    plan: "Plan",
    rows: Sequence[int] | Tensor,
    *,
    layer: int,
    num_kv_heads: int,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: Tensor | None = None,
    out: Tensor | None = None,
    seen: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """Sum ``softmax(scale * q k^T)`` of some rows of a step, by kv head and key.

    The score matrix is never held: sixteen queries at a time go over their keys. The step's pages must
    still hold what the plan says, so call it before the step's commit; with the queries of the accepted
    rows alone, what was rejected leaves no trace. Sums are 64-bit integers, and a row's part does not
    depend on the rows beside it: the same numbers on any number of threads, on any instruction set, and
    however rows were batched into steps, on the CPU and on a device.

    Args:
        q: queries `[len(rows), num_heads, head_dim]` of ``rows``, rotated already; float32, bfloat16 or
            float16, any strides with a unit last one.
        chunks: the pool, as for :func:`hornbeam.ops.tree_attention`.
        plan: the step's plan.
        rows: ascending rows of the plan: list, or int32 or int64 tensor on the CPU.
        layer: physical layer.
        num_kv_heads: key-value heads of a layer.
        scale: factor of the scores; `head_dim ** -0.5` where not given.
        window: as for :func:`hornbeam.ops.tree_attention`.
        soft_cap: likewise.
        sinks: likewise, float32 `[num_heads]`.
        out: int64 `[num_kv_heads, columns]`; the sums are added to it.
        seen: int32 `[num_kv_heads, columns]`; adds how many of the rows see each key, for scores that
            divide by it (ZipCache, arXiv 2405.14256).
        lse: float32 `[len(rows), num_heads]`, takes the logarithm of the softmax denominators.

    Returns:
        `out`, or a new tensor: mass in units of `1 / MASS_ONE`, summed over the rows and over the query
        heads of the kv head: divide by ``MASS_ONE * group`` for the mean of the heads. Columns are those
        of :func:`mass_columns`; a kv head with fewer keys than a read has columns leaves the rest 0. A row
        with scores that are no numbers adds nothing.

    Raises:
        ShapeError: a tensor's shape, dtype, stride or device differs from what the plan and the pool need.
        ArgumentError: a value outside of its range, a plan that names slots outside of the pool, or an output
            that may not be written (see ``docs/arrays.md``).
    """
    rows = rows if isinstance(rows, Tensor) else list(rows)
    if cuda.is_on_device(q):
        rows = rows.cpu() if isinstance(rows, Tensor) else torch.tensor(rows, dtype=torch.int32, device="cpu")
        return cuda.attention_mass(
            q,
            chunks,
            plan,
            rows,
            layer=layer,
            num_kv_heads=num_kv_heads,
            scale=scale,
            window=window,
            soft_cap=soft_cap,
            sinks=sinks,
            out=out,
            seen=seen,
            lse=lse,
        )
    if out is None:
        width = sum(count for _, _, count in _native.mass_columns(plan, rows))
        out = torch.zeros(num_kv_heads, width, dtype=torch.int64, device="cpu")
    _native.attention_mass(
        q, chunks, plan, rows, out, seen, lse, layer, num_kv_heads, scale, window, soft_cap, sinks
    )
    return out
