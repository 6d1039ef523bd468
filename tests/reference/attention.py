"""Attention over pages, written from the definition of a plan: gather, mask, softmax, in float64;
and how far a calculation in float32 may be from it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hornbeam._native import Plan
from tests.reference import pages

OWN, BY_HEAD = 1, 2

#: Half the distance of 1 to the next number of float32: the relative error of one rounding.
UNIT = 2.0**-24
#: Roundings of the largest size that a score shows, and a sum, by the root of how many it adds: the errors
#: of many additions differ in sign. Of 400 random cases the worst is at 0.52 of the bounds that follow.
DOT_ROUNDINGS, SUM_ROUNDINGS = 8.0, 4.0


class Gathered(NamedTuple):
    """Keys and values `[K, D]` (float64), positions `[K]` and visibility `[N, K]` of one kv head.

    Visibility is what the plan says before any window. Sizes are those of the numbers that keys and values
    are added up from: for a page in codes the least value of the block and the steps above it, else their
    own.
    """

    keys: Tensor
    values: Tensor
    positions: Tensor
    visible: Tensor
    key_sizes: Tensor
    value_sizes: Tensor


def gather(chunks: list[Tensor], plan: Plan, layer: int, num_kv_heads: int, head: int) -> Gathered:
    """What the rows of a plan see of one kv head."""
    num_planes, slabs_per_chunk, _, _, head_dim = chunks[0].shape
    plane = layer * num_kv_heads + head
    row_positions, row_end = plan.row_positions.tolist(), plan.row_end.tolist()
    row_slots, positions = plan.row_slots.tolist(), plan.positions.tolist()
    entries, ranges = plan.entries.tolist(), plan.head_ranges.tolist()
    keys, values, sizes, where, seen = [], [], [], [], []

    def show(page: Tensor, slot: int, position: int, rows: range, size: Tensor | None = None) -> None:
        keys.append(page[0, slot].double())
        values.append(page[1, slot].double())
        sizes.append((page if size is None else size)[:, slot].double().abs())
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
            size = None
            if number:
                decoded = pages.decode(page, number)
                page = torch.from_numpy(np.stack([decoded.keys, decoded.values]))
                size = torch.from_numpy(np.stack([decoded.key_sizes, decoded.value_sizes]))
            for i in range(count):
                at = position + i if positions_at < 0 else positions[positions_at + i]
                show(page, first + i, at, range(row_begin, stop), size)

    visible = torch.zeros(len(row_positions), len(keys), dtype=torch.bool)
    for key, rows in enumerate(seen):
        visible[rows.start : rows.stop, key] = True
    size_of = torch.stack(sizes, dim=1) if sizes else torch.zeros(2, 0, head_dim, dtype=torch.float64)
    empty = torch.zeros(0, head_dim, dtype=torch.float64)
    return Gathered(
        torch.stack(keys) if keys else empty,
        torch.stack(values) if values else empty,
        torch.tensor(where, dtype=torch.int64),
        visible,
        size_of[0],
        size_of[1],
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
        own = gather(pool, plan, layer, num_kv_heads, head)
        shown = own.visible[row]
        if window is not None:
            shown = shown & (int(plan.row_positions[row]) - own.positions < window)
        seen[own.keys[shown, 0].long()] = True
    return list(seen.reshape(len(chunks), planes, slabs, page_tokens))


def with_hidden(chunks: list[Tensor], seen: list[Tensor], value: float, sides: list[int]) -> list[Tensor]:
    """The chunks with `value` in all slots but those seen: in their keys (side 0), their values (side 1)."""
    changed = [chunk.clone() for chunk in chunks]
    for chunk, shown in zip(changed, seen, strict=True):
        for side in sides:
            chunk[:, :, side][~shown] = value
    return changed


class Head(NamedTuple):
    """One query head's distribution over the keys, and what bounds the error of each of its weights."""

    index: int
    kv_head: int
    #: Weights `[R, K]`, of rows that see nothing NaN; and log-sum-exp `[R]`.
    weights: Tensor
    lse: Tensor
    #: How far each weight may be off, as a share of it, before the division by their sum: `[R, K]`.
    errors: Tensor


def _heads(
    gathered: list[Gathered],
    q: Tensor,
    now: Tensor,
    rows: Tensor,
    scale: float | None,
    window: int | None,
    soft_cap: float | None,
    sinks: Tensor | None,
    seen: list[Tensor] | None = None,
) -> Iterator[Head]:
    """The query heads of ``q`` `[R, H, D]`, which are the given rows at the positions ``now`` `[R]`.

    ``seen`` has `[N, K]` of each query head where it sees less than the plan says."""
    group = q.shape[1] // len(gathered)
    scale = q.shape[2] ** -0.5 if scale is None else scale
    for index in range(q.shape[1]):
        own = gathered[index // group]
        visible = own.visible[rows]
        if seen is not None:
            visible = visible & seen[index][rows]
        if window is not None:
            visible = visible & (now[:, None] - own.positions[None] < window)
        query = q[:, index].double()
        scores = scale * (query @ own.keys.T)
        errors = DOT_ROUNDINGS * abs(scale) * (query.abs() @ own.key_sizes.T) + scores.abs()
        if soft_cap is not None:
            scores = soft_cap * torch.tanh(scores / soft_cap)
            errors += 8 * soft_cap
        scores = scores.masked_fill(~visible, -torch.inf)
        with_sink = scores
        if sinks is not None:
            with_sink = torch.cat([scores, sinks[index].double().expand(len(q), 1)], dim=1)
        lse = torch.logsumexp(with_sink, dim=1)
        weights = torch.exp(scores - lse[:, None])
        # The score less the largest one, and the exponential itself.
        largest = with_sink.amax(1, keepdim=True).abs() if with_sink.shape[1] else torch.zeros(len(q), 1)
        errors = UNIT * (errors + 2 * scores.abs() + 2 * largest + 8)
        yield Head(index, index // group, weights, lse, errors.masked_fill(~visible, 0))


def _sum_error(own: Gathered) -> float:
    return UNIT * (SUM_ROUNDINGS * len(own.keys) ** 0.5 + 2)


def tree_attention(q: Tensor, chunks: list[Tensor], plan: Plan, **options: Any) -> tuple[Tensor, Tensor]:
    """Output `[N, H, D]` and log-sum-exp `[N, H]`, both float64."""
    return bounded_tree_attention(q, chunks, plan, **options)[:2]


def bounded_tree_attention(
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
    seen: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output `[N, H, D]` and log-sum-exp `[N, H]`, then how far each may be off in float32; all float64.

    ``seen`` has `[N, K]` of each query head where it sees less than the plan says."""
    num_rows = q.shape[0]
    out = torch.zeros(q.shape, dtype=torch.float64)
    lse = torch.full(q.shape[:2], -torch.inf, dtype=torch.float64)
    out_error, lse_error = torch.zeros_like(out), torch.zeros_like(lse)
    now = torch.from_numpy(plan.row_positions).long()
    gathered = [gather(chunks, plan, layer, num_kv_heads, head) for head in range(num_kv_heads)]
    for head in _heads(gathered, q, now, torch.arange(num_rows), scale, window, soft_cap, sinks, seen):
        own, index = gathered[head.kv_head], head.index
        lse[:, index] = head.lse
        some = head.lse != -torch.inf
        weights, errors = head.weights[some], head.errors[some]
        if own.values.isfinite().all():
            out[some, index] = weights @ own.values
        else:  # what a row does not see has no part in its sum, not even 0 times infinity
            parts = weights[:, :, None] * own.values
            out[some, index] = parts.masked_fill(~own.visible[some][:, :, None], 0.0).sum(1)
        common = (weights * errors).sum(1, keepdim=True) + _sum_error(own)
        out_error[some, index] = (
            (weights * errors) @ own.values.abs()
            + common * out[some, index].abs()
            + _sum_error(own) * (weights @ own.value_sizes)
        )
        lse_error[some, index] = common[:, 0] + 2 * UNIT * head.lse[some].abs()
    return out, lse, out_error, lse_error


def attention_mass(
    q: Tensor, chunks: list[Tensor], plan: Plan, rows: list[int], **options: Any
) -> tuple[list[dict[tuple[int, int], float]], list[dict[tuple[int, int], int]], Tensor]:
    """As :func:`bounded_attention_mass`, without the bounds."""
    masses, counts, lse, _ = bounded_attention_mass(q, chunks, plan, rows, **options)
    return [{key: mass for key, (mass, _) in head.items()} for head in masses], counts, lse


def bounded_attention_mass(
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
) -> tuple[
    list[dict[tuple[int, int], tuple[float, float]]], list[dict[tuple[int, int], int]], Tensor, Tensor
]:
    """The definition: softmax of each row and head, summed over the rows and the heads of a kv head.

    By kv head: mass with how far it may be off in float32, and the number of rows that see the key, both by
    (read, index in the read); then log-sum-exp `[len(rows), H]` and how far that may be off, float64. ``q``
    holds the queries of ``rows``.
    """
    chosen = torch.tensor(rows, dtype=torch.int64)
    now = torch.from_numpy(plan.row_positions).long()[chosen]
    gathered = [gather(chunks, plan, layer, num_kv_heads, head) for head in range(num_kv_heads)]
    sums = [torch.zeros(2, len(own.keys), dtype=torch.float64) for own in gathered]
    lse = torch.full((len(rows), q.shape[1]), -torch.inf, dtype=torch.float64)
    lse_error = torch.zeros_like(lse)
    for head in _heads(gathered, q, now, chosen, scale, window, soft_cap, sinks):
        own = gathered[head.kv_head]
        weights = torch.nan_to_num(head.weights)
        common = (weights * head.errors).sum(1, keepdim=True) + _sum_error(own)
        sums[head.kv_head][0] += weights.sum(0)
        sums[head.kv_head][1] += (weights * (head.errors + common)).sum(0)
        lse[:, head.index] = head.lse
        lse_error[:, head.index] = common[:, 0] + 2 * UNIT * torch.nan_to_num(head.lse, neginf=0.0).abs()
    masses, counts = [], []
    for kv_head, (own, (total, error)) in enumerate(zip(gathered, sums, strict=True)):
        visible = own.visible[chosen]
        if window is not None:
            visible = visible & (now[:, None] - own.positions[None] < window)
        names = _key_names(plan, layer * num_kv_heads + kv_head)
        pairs = zip(total.tolist(), error.tolist(), strict=True)
        masses.append(dict(zip(names, pairs, strict=True)))
        counts.append(dict(zip(names, visible.sum(0).tolist(), strict=True)))
    return masses, counts, lse, lse_error


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
