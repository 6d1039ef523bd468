"""Keys and values into pages."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hornbeam import _native

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hornbeam._native import Plan

__all__ = ["move_rows", "write_rows"]


def write_rows(
    k: Tensor, v: Tensor, chunks: list[Tensor], plan: "Plan", *, layer: int, num_kv_heads: int
) -> None:
    """Write the keys and values of a step's rows to the slots that its plan names, in place.

    Args:
        k: keys `[num_rows, num_kv_heads, head_dim]`, rotated already; float32, bfloat16 or float16,
            any strides with a unit last one. Converted to the pages' dtype, ties to even.
        v: values, as `k`.
        chunks: the pool, tensors `[num_planes, slabs_per_chunk, 2, page_tokens, head_dim]`.
        plan: the step's plan; row `i` goes to `plan.row_slots[i]`.
        layer: physical layer.
        num_kv_heads: key-value heads of a layer.

    Raises:
        ShapeError: a tensor's shape, dtype, stride or device differs from the plan's or the pool's.
        ArgumentError: the layer, or a slot of the plan, lies outside of the pool.
    """
    _native.write_rows(k, v, chunks, plan, layer, num_kv_heads)


def move_rows(chunks: list[Tensor], moves: "NDArray") -> None:
    """Copy slots to slots on all planes, in place: keys and values.

    Args:
        chunks: the pool, as in :func:`write_rows`; on any device.
        moves: int32 `[num_moves, 4]` of (from slab, from slot, to slab, to slot). They must give the
            same result one after the other as all at once, as those of a commit do.
    """
    if len(moves) == 0:
        return
    if chunks[0].device.type == "cpu":
        _native.move_rows(chunks, moves)
        return
    slabs_per_chunk = chunks[0].shape[1]
    table = torch.from_numpy(moves).long()
    rows = [
        chunks[slab // slabs_per_chunk][:, slab % slabs_per_chunk, :, slot].clone()
        for slab, slot, _, _ in table.tolist()
    ]
    for row, (_, _, slab, slot) in zip(rows, table.tolist(), strict=True):
        chunks[slab // slabs_per_chunk][:, slab % slabs_per_chunk, :, slot] = row
