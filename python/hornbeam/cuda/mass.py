"""The probability mass of keys, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.cuda.device import lane, upload
from hornbeam.cuda.plans import DevicePlan, on_device
from hornbeam.cuda.warps import SIZES
from hornbeam.errors import ShapeError

if TYPE_CHECKING:
    from hornbeam._native import Plan

__all__ = ["attention_mass"]


def attention_mass(
    q: Tensor,
    chunks: list[Tensor],
    plan: Plan | DevicePlan,
    rows: Tensor,
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
    """See :func:`hornbeam.ops.attention_mass`: the same integers. Rows come from the host, where they are
    checked; nothing is waited for."""
    driver = lane()
    there = on_device(plan, chunks, num_kv_heads, q.shape[1])
    columns = _native.mass_columns(there.plan, rows)
    shape = (num_kv_heads, sum(count for _, _, count in columns))
    if out is None:
        out = torch.zeros(shape, dtype=torch.int64, device=q.device)
    elif out.shape != shape:
        raise ShapeError(f"out is of shape {tuple(out.shape)}, expected {shape}")
    words = np.frombuffer(there.packed.mass_segments(columns), dtype=np.int32)
    segments = torch.from_numpy(words.reshape(-1, 4).copy())
    if lse is not None and (len(segments) == 0 or len(rows) == 0):
        lse.fill_(-torch.inf)
    rows, segments = upload([rows.to(torch.int32), segments], q.device)
    stats = torch.zeros(len(rows) * q.shape[1], SIZES["query_stats"], dtype=torch.uint8, device=q.device)
    _native.cuda_key_mass(
        driver,
        q,
        there.words,
        there.chunk,
        rows,
        segments,
        stats,
        out,
        seen,
        lse,
        layer,
        num_kv_heads,
        scale,
        window,
        soft_cap,
        sinks,
    )
    return out
