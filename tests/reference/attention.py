"""Attention over pages, written from the definition of a plan: gather, mask, softmax, in float64."""

import numpy as np
import torch
from torch import Tensor

from hornbeam._native import Plan
from tests.reference import pages

OWN, BY_HEAD = 1, 2


def gather(
    chunks: list[Tensor], plan: Plan, layer: int, num_kv_heads: int, head: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys and values `[K, D]` (float64), positions `[K]` and visibility `[N, K]` of one kv head.

    Visibility is what the plan says before any window.
    """
    num_planes, slabs_per_chunk, _, _, head_dim = chunks[0].shape
    plane = layer * num_kv_heads + head
    row_positions, row_end = plan.row_positions.tolist(), plan.row_end.tolist()
    row_slots, positions = plan.row_slots.tolist(), plan.positions.tolist()
    entries, ranges = plan.entries.tolist(), plan.head_ranges.tolist()
    keys, values, where, seen = [], [], [], []

    def show(page: Tensor, slot: int, position: int, rows: range) -> None:
        keys.append(page[0, slot].double())
        values.append(page[1, slot].double())
        where.append(position)
        seen.append(rows)

    for begin, end, row_begin, stop, _, flags, mask, offset in plan.reads.tolist():
        assert mask == -1
        assert offset == 0
        if flags & OWN:
            for row in range(row_begin, stop):
                slab, slot = row_slots[row]
                page = chunks[slab // slabs_per_chunk][plane, slab % slabs_per_chunk]
                show(page, slot, row_positions[row], range(row, min(row_end[row], stop)))
            continue
        if flags & BY_HEAD:
            begin, end = ranges[begin + plane]
        for page_id, run, position, positions_at in entries[begin:end]:
            first, number, count = run & 0xFFF, run >> 12 & 0xF, run >> 16 & 0xFFFF
            if flags & BY_HEAD:
                chunk, index = divmod(page_id, num_planes * slabs_per_chunk)
                page = chunks[chunk].flatten(0, 1)[index]
            else:
                page = chunks[page_id // slabs_per_chunk][plane, page_id % slabs_per_chunk]
            if number:
                decoded = pages.decode(page, number)
                page = torch.from_numpy(np.stack([decoded.keys, decoded.values]))
            for i in range(count):
                at = position + i if positions_at < 0 else positions[positions_at + i]
                show(page, first + i, at, range(row_begin, stop))

    visible = torch.zeros(len(row_positions), len(keys), dtype=torch.bool)
    for key, rows in enumerate(seen):
        visible[rows.start : rows.stop, key] = True
    empty = torch.zeros(0, head_dim)
    return (
        torch.stack([*keys]).double() if keys else empty.double(),
        torch.stack([*values]).double() if values else empty.double(),
        torch.tensor(where, dtype=torch.int64),
        visible,
    )


def slots_seen(
    chunks: list[Tensor], plan: Plan, row: int, *, layer: int, num_kv_heads: int, window: int | None = None
) -> list[Tensor]:
    """The slots of each chunk, `[planes, slabs, page_tokens]`, whose keys a row sees; pages are plain."""
    planes, slabs, _, page_tokens, _ = chunks[0].shape
    sizes = [planes, slabs, 1, page_tokens, 1]
    numbers = torch.arange(len(chunks) * planes * slabs * page_tokens).double()
    # Pages whose keys, and values, are the numbers of their slots.
    pool = [part.reshape(sizes).expand(-1, -1, 2, -1, -1) for part in numbers.chunk(len(chunks))]
    seen = torch.zeros(len(numbers), dtype=torch.bool)
    for head in range(num_kv_heads):
        keys, _, positions, visible = gather(pool, plan, layer, num_kv_heads, head)
        shown = visible[row]
        if window is not None:
            shown = shown & (int(plan.row_positions[row]) - positions < window)
        seen[keys[shown, 0].long()] = True
    return list(seen.reshape(len(chunks), planes, slabs, page_tokens))


def with_hidden(chunks: list[Tensor], seen: list[Tensor], value: float, sides: list[int]) -> list[Tensor]:
    """The chunks with `value` in all slots but those seen: in their keys (side 0), their values (side 1)."""
    changed = [chunk.clone() for chunk in chunks]
    for chunk, shown in zip(changed, seen, strict=True):
        for side in sides:
            chunk[:, :, side][~shown] = value
    return changed


def tree_attention(
    q: Tensor,
    chunks: list[Tensor],
    plan: Plan,
    *,
    layer: int,
    num_kv_heads: int,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output `[N, H, D]` and log-sum-exp `[N, H]`, both float64."""
    num_rows, num_heads, head_dim = q.shape
    group = num_heads // num_kv_heads
    scale = head_dim**-0.5 if scale is None else scale
    out = torch.zeros(num_rows, num_heads, head_dim, dtype=torch.float64)
    lse = torch.full((num_rows, num_heads), -torch.inf, dtype=torch.float64)
    now = torch.from_numpy(plan.row_positions).long()
    for kv_head in range(num_kv_heads):
        keys, values, positions, visible = gather(chunks, plan, layer, num_kv_heads, kv_head)
        if window is not None:
            visible = visible & (now[:, None] - positions[None] < window)
        for head in range(kv_head * group, (kv_head + 1) * group):
            scores = scale * (q[:, head].double() @ keys.T)
            if soft_cap is not None:
                scores = soft_cap * torch.tanh(scores / soft_cap)
            scores = scores.masked_fill(~visible, -torch.inf)
            if sinks is not None:
                scores = torch.cat([scores, sinks[head].double().expand(num_rows, 1)], dim=1)
            lse[:, head] = torch.logsumexp(scores, dim=1)
            some = lse[:, head] != -torch.inf
            weights = torch.exp(scores[some] - lse[some, head, None])
            weights = weights[:, : len(keys)]
            if values.isfinite().all():
                out[some, head] = weights @ values
            else:  # what a row does not see has no part in its sum, not even 0 times infinity
                parts = weights[:, :, None] * values
                out[some, head] = parts.masked_fill(~visible[some][:, :, None], 0.0).sum(1)
    return out, lse


def attention_mass(
    q: Tensor,
    chunks: list[Tensor],
    plan: Plan,
    rows: list[int],
    *,
    layer: int,
    num_kv_heads: int,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: Tensor | None = None,
) -> tuple[list[dict[tuple[int, int], float]], list[dict[tuple[int, int], int]], Tensor]:
    """The definition: softmax of each row and head, summed over the rows and the heads of a kv head.

    By kv head: mass and the number of rows that see the key, both by (read, index in the read); and
    log-sum-exp `[len(rows), H]`, float64. ``q`` holds the queries of ``rows``.
    """
    num_heads, head_dim = q.shape[1:]
    group = num_heads // num_kv_heads
    scale = head_dim**-0.5 if scale is None else scale
    now = torch.from_numpy(plan.row_positions).long()[rows]
    masses, counts = [], []
    lse = torch.full((len(rows), num_heads), -torch.inf, dtype=torch.float64)
    for kv_head in range(num_kv_heads):
        keys, _, positions, visible = gather(chunks, plan, layer, num_kv_heads, kv_head)
        visible = visible[rows]
        if window is not None:
            visible = visible & (now[:, None] - positions[None] < window)
        total = torch.zeros(len(keys), dtype=torch.float64)
        for head in range(kv_head * group, (kv_head + 1) * group):
            scores = scale * (q[:, head].double() @ keys.T)
            if soft_cap is not None:
                scores = soft_cap * torch.tanh(scores / soft_cap)
            scores = scores.masked_fill(~visible, -torch.inf)
            if sinks is not None:
                scores = torch.cat([scores, sinks[head].double().expand(len(rows), 1)], dim=1)
            probabilities = torch.softmax(scores, dim=1)[:, : len(keys)]
            total += torch.nan_to_num(probabilities).sum(0)
            lse[:, head] = torch.logsumexp(scores, dim=1)
        names = _key_names(plan, layer * num_kv_heads + kv_head)
        masses.append(dict(zip(names, total.tolist(), strict=True)))
        counts.append(dict(zip(names, visible.sum(0).tolist(), strict=True)))
    return masses, counts, lse


def _key_names(plan: Plan, plane: int) -> list[tuple[int, int]]:
    """(read, index in the read) of every key that :func:`gather` lists for a plane, in its order."""
    names = []
    entries, ranges = plan.entries.tolist(), plan.head_ranges.tolist()
    for read, (begin, end, row_begin, stop, _, flags, _, _) in enumerate(plan.reads.tolist()):
        if flags & OWN:
            count = stop - row_begin
        else:
            if flags & BY_HEAD:
                begin, end = ranges[begin + plane]
            count = sum(entry[1] >> 16 & 0xFFFF for entry in entries[begin:end])
        names += [(read, i) for i in range(count)]
    return names
