"""Keys and values into pages."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hornbeam import _native, cuda
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.integers import integer_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hornbeam._native import Plan

__all__ = ["gather_rows", "move_page_rows", "move_page_rows_at_once", "move_rows", "put_rows", "write_rows"]


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
    _native.write_rows(k, v, chunks, plan, layer, num_kv_heads)  # type: ignore[arg-type]


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


def move_page_rows_at_once(chunks: list[Tensor], moves: "NDArray") -> None:
    """As :func:`move_page_rows`, but every slot is read before any is written.

    Args:
        chunks: the pool, as in :func:`write_rows`; on any device.
        moves: int32 `[num_moves, 4]` of (from page, from slot, to page, to slot); no two to one slot.
    """
    if len(moves) == 0:
        return
    if cuda.is_on_device(chunks[0]):
        cuda.condense_pages(chunks, moves, [])
    else:
        _native.move_page_rows_at_once(chunks, moves)


def gather_rows(chunks: list[Tensor], counts: "NDArray", entries: "NDArray") -> tuple[Tensor, Tensor]:
    """Keys and values of single slots, float32 `[N, head_dim]` on the CPU; codes are decoded.

    Args:
        chunks: the pool, as in :func:`write_rows`; on any device.
        counts: int32 `[num_planes]`, entries of each plane.
        entries: int32 `[N, 3]` of (page, slot, position), plane after plane.

    Raises:
        ArgumentError: a slot outside of the pool; on the CPU only.
        ShapeError: arrays of other shapes.
    """
    if cuda.is_on_device(chunks[0]):
        keys, values = cuda.gather_rows(chunks, entries).cpu()
        return keys, values
    shape = (len(entries), chunks[0].shape[-1])
    keys, values = (torch.empty(shape, dtype=torch.float32, device="cpu") for _ in range(2))
    _native.gather_rows(chunks, _native.KeyTable(counts, entries), keys, values)
    return keys, values


def put_rows(chunks: list[Tensor], entries: "NDArray", keys: Tensor, values: Tensor) -> None:
    """Writes keys and values `[N, head_dim]` to single slots, in place.

    Args:
        chunks: the pool, as in :func:`write_rows`; on any device.
        entries: int32 `[N, 3]` of (page, slot, position); slots differ.
        keys: any float dtype, rounded to the pages'.
        values: as `keys`.

    Raises:
        ArgumentError: a slot outside of the pool, or on a page in codes; entries that are no integers.
        ShapeError: rows of another shape, or that are no floats.
    """
    if len(entries) == 0:
        return
    if cuda.is_on_device(chunks[0]):
        cuda.put_rows(chunks, entries, keys, values)
        return
    pages = chunks[0].shape[0] * chunks[0].shape[1]
    table = integer_tensor(entries, "entries")
    shape = (len(table), chunks[0].shape[-1])
    for name, rows in (("keys", keys), ("values", values)):
        if rows.shape != shape or not rows.is_floating_point():
            raise ShapeError(f"{name} is {rows.dtype} {tuple(rows.shape)}, expected floats of shape {shape}")
    limits = torch.tensor([len(chunks) * pages, chunks[0].shape[3]], device="cpu")
    outside = ((table[:, :2] < 0) | (table[:, :2] >= limits)).any(1)
    if bool(outside.any()):
        page, slot, _ = table[outside][0].tolist()
        raise ArgumentError(f"an entry is page {page}, slot {slot}, expected a plain slot of the pool")
    for index, chunk in enumerate(chunks):
        own = (table[:, 0] // pages == index).nonzero().flatten()
        if len(own) == 0:
            continue
        flat = chunk.view(pages, *chunk.shape[2:])
        page, slot = table[own, 0] % pages, table[own, 1]
        flat[page, 0, slot] = keys[own].to(chunk.dtype)
        flat[page, 1, slot] = values[own].to(chunk.dtype)
