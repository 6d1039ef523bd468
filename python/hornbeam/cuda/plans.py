"""Plans on the device, and the operations that read them: row writes, tree attention."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.cuda.device import index_of, lane, upload
from hornbeam.errors import ShapeError

if TYPE_CHECKING:
    from hornbeam._native import Plan

__all__ = ["DevicePlan", "tree_attention", "write_rows"]


class DevicePlan:
    """A step's plan in one device buffer, with the work list of tree attention and its workspace.

    The operations of :mod:`hornbeam.ops` take it in the place of the plan.

    Args:
        plan: the step's plan.
        chunks: the pool, tensors on one device.
        num_heads: query heads.
        num_kv_heads: key-value heads of a layer.
        num_rows: pads the plan to so many rows: the rest see nothing, so that attention gives zeros
            for them, and their keys and values are written nowhere. The plan's own rows by default.
        buffer: int32, takes the words where given, so that a captured graph finds the next step's
            plan where the last one was; a new tensor otherwise.
        workspace: float32, likewise for the partial results.

    Attributes:
        words: the buffer.
        workspace: float32, for the partial results of rows that several pieces of work share.
        num_rows: rows, padding included.
        extent: (items, merged rows) to launch for.
        partial_rows: rows of the workspace.
        packed: what was packed, with its words on the host.

    Raises:
        ShapeError: the buffer or the workspace is too small for the plan; nothing was written.
    """

    def __init__(
        self,
        plan: Plan,
        chunks: list[Tensor],
        *,
        num_heads: int,
        num_kv_heads: int,
        num_rows: int | None = None,
        buffer: Tensor | None = None,
        workspace: Tensor | None = None,
    ) -> None:
        self.plan = plan
        self.chunk = chunks[0]
        device = self.chunk.device
        self.packed = packed = pack(plan, chunks, num_heads, num_kv_heads, num_rows)
        self.num_rows = packed.num_rows
        self.extent = (packed.num_items, packed.num_merged_rows)
        self.partial_rows = packed.num_partial_rows
        row_floats = num_heads * (self.chunk.shape[4] + 2)
        if workspace is None:
            size = self.partial_rows * row_floats
            workspace = torch.empty(size, dtype=torch.float32, device=device)
        elif len(workspace) < self.partial_rows * row_floats:
            raise ShapeError(
                f"workspace is of {len(workspace)} floats, expected at least {self.partial_rows * row_floats}"
            )
        else:
            self.partial_rows = len(workspace) // row_floats
        self.workspace = workspace
        host = torch.frombuffer(bytearray(packed.words), dtype=torch.int32)
        if buffer is None:
            [self.words] = upload([host], device)
        elif len(buffer) < len(host):
            raise ShapeError(f"buffer is of {len(buffer)} words, expected at least {len(host)}")
        else:
            write(buffer, host)
            self.words = buffer


def pack(
    plan: Plan, chunks: list[Tensor], num_heads: int, num_kv_heads: int, num_rows: int | None
) -> _native.CudaPlan:
    """The plan as words for the device of the chunks."""
    facts = lane().device(index_of(chunks[0].device))
    return _native.CudaPlan(plan, chunks, num_heads, num_kv_heads, facts["multiprocessors"], num_rows)


def write(buffer: Tensor, host: Tensor) -> None:
    """Puts host numbers at the beginning of a device buffer; the host does not wait."""
    if buffer.is_cuda:
        host = host.pin_memory()
    buffer[: len(host)].copy_(host, non_blocking=True)


#: Plans of the last steps: every layer of a step asks for the same one.
_plans: OrderedDict[tuple[int, ...], tuple[DevicePlan, Plan, list[Tensor]]] = OrderedDict()
_MOST_PLANS = 4
#: Query heads last seen with a number of kv heads: rows are written before the first query comes.
_num_heads: dict[int, int] = {}


def on_device(
    plan: Plan | DevicePlan, chunks: list[Tensor], num_kv_heads: int, num_heads: int | None
) -> DevicePlan:
    """A plan on the device of the chunks: that of this step, if an operation has asked for it before."""
    if isinstance(plan, DevicePlan):
        return plan
    if num_heads is None:
        num_heads = _num_heads.get(num_kv_heads, num_kv_heads)
    _num_heads[num_kv_heads] = num_heads
    key = (id(plan), num_heads, num_kv_heads, *(chunk.data_ptr() for chunk in chunks))
    found = _plans.get(key)
    if found is None:
        # The entry holds the plan and the chunks, so that no other object takes their addresses.
        made = DevicePlan(plan, chunks, num_heads=num_heads, num_kv_heads=num_kv_heads)
        found = _plans[key] = (made, plan, list(chunks))
        while len(_plans) > _MOST_PLANS:
            _plans.popitem(last=False)
    return found[0]


def write_rows(
    k: Tensor, v: Tensor, chunks: list[Tensor], plan: Plan | DevicePlan, *, layer: int, num_kv_heads: int
) -> None:
    """See :func:`hornbeam.ops.write_rows`."""
    driver = lane()
    if k.shape[0] != plan.num_rows:
        raise ShapeError(f"k is of {k.shape[0]} rows, expected the plan's {plan.num_rows}")
    words = on_device(plan, chunks, num_kv_heads, None).words
    _native.cuda_write_rows(driver, k, v, words, chunks[0], layer, num_kv_heads)


def tree_attention(
    q: Tensor,
    chunks: list[Tensor],
    plan: Plan | DevicePlan,
    out: Tensor,
    *,
    layer: int,
    num_kv_heads: int,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: Tensor | None = None,
    lse: Tensor | None = None,
) -> None:
    """See :func:`hornbeam.ops.tree_attention`."""
    driver = lane()
    if q.shape[0] != plan.num_rows:
        raise ShapeError(f"q is of {q.shape[0]} rows, expected the plan's {plan.num_rows}")
    there = on_device(plan, chunks, num_kv_heads, q.shape[1])
    _native.cuda_tree_attention(
        driver,
        q,
        there.words,
        there.chunk,
        out,
        lse,
        there.workspace,
        there.extent,
        there.partial_rows,
        layer,
        num_kv_heads,
        scale,
        window,
        soft_cap,
        sinks,
    )
