"""Keys and values into pages."""

from typing import TYPE_CHECKING, cast

from torch import Tensor

from hornbeam import _native, cuda

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hornbeam._native import Plan

__all__ = ["move_page_rows", "move_rows", "write_rows"]


def write_rows(
    k: Tensor,
    v: Tensor,
    chunks: list[Tensor],
    plan: "Plan | cuda.DevicePlan",
    *,
    layer: int,
    num_kv_heads: int,
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
    if cuda.is_on_device(k):
        cuda.write_rows(k, v, chunks, plan, layer=layer, num_kv_heads=num_kv_heads)
        return
    _native.write_rows(k, v, chunks, cast("Plan", plan), layer, num_kv_heads)


def move_rows(chunks: list[Tensor], moves: "NDArray") -> None:
    """Copy slots to slots on all planes, in order and in place: keys and values.

    Args:
        chunks: the pool, as in :func:`write_rows`.
        moves: int32 `[num_moves, 4]` of (from slab, from slot, to slab, to slot).
    """
    _move(chunks, moves, by_page=False)


def move_page_rows(chunks: list[Tensor], moves: "NDArray") -> None:
    """Copy slots to slots of single pages, in order and in place: keys and values.

    Args:
        chunks: the pool, as in :func:`write_rows`.
        moves: int32 `[num_moves, 4]` of (from page, from slot, to page, to slot).
    """
    _move(chunks, moves, by_page=True)


def _move(chunks: list[Tensor], moves: "NDArray", *, by_page: bool) -> None:
    if len(moves) == 0:
        return
    if cuda.is_on_device(chunks[0]):
        cuda.move_rows(chunks, moves, by_page=by_page)
    elif by_page:
        _native.move_page_rows(chunks, moves)
    else:
        _native.move_rows(chunks, moves)
