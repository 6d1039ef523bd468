"""Which pages a row reads, written from the papers and not from our code: in plain torch, choice by choice.

Bounds: Tang et al. 2024, "Quest", section 3.2. Top-p: Lin et al. 2025, "Twilight", section 3. One choice a
layer: Xiao et al. 2024, "InfLLM", section 2.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hornbeam._native import Plan
from tests.reference import attention, pages

OWN, BY_HEAD = 1, 2


@dataclass(frozen=True)
class Rule:
    """The arguments of ``AttendRule``."""

    estimate: str = "bounds"
    slack: float | None = None
    group: str = "max"
    select: str = "topk"
    k: int | None = None
    share: float | None = None
    p: float | None = None
    floor: int = 0
    cap: int | None = None
    threshold: float | None = None
    sinks: int = 0
    window: int = 0


@dataclass
class Chosen:
    """Indices of the candidates that are read, and how near a sum came to a limit it was compared with."""

    indices: set[int]
    margin: float = math.inf


def estimate(kind: str, query: Tensor, keys: Tensor, slack: float | None = None) -> float:
    """What a summary of `keys [n, D]` says of ``query . key``, float64. With a slack it lies so far from the
    middle of the bounds below and above to that above."""
    if kind == "mean":
        return float(query @ keys.mean(0))
    corners = query * keys.amax(0), query * keys.amin(0)
    above, below = float(torch.maximum(*corners).sum()), float(torch.minimum(*corners).sum())
    middle = (above + below) / 2
    return above if slack is None else middle + slack * (above - middle)


def choose(rule: Rule, scores: list[float], tokens: list[int], forced: Iterable[int], latest: int) -> Chosen:
    """The candidates that one choice reads. Scores are of logits; equal ones go by index. The ``latest``,
    which is among the forced, has no part in masses and in the elbow."""
    chosen = Chosen(set(forced))
    if rule.select == "none" or not scores:
        return chosen
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    others = [i for i in order if i != latest]
    most = max((scores[i] for i in others), default=0.0)
    masses = [n * math.exp(min(s - most, 0.0)) for n, s in zip(tokens, scores, strict=True)]
    masses[latest] = 0.0
    total = sum(masses) or 1.0
    masses = [mass / total for mass in masses]
    always = set(chosen.indices)

    def fill(is_enough: Any) -> None:
        for i in order:
            if is_enough():
                return
            chosen.indices.add(i)

    def near(mass: float, limit: float) -> bool:
        chosen.margin = min(chosen.margin, abs(mass - limit))
        return mass >= limit

    if rule.select == "topk":
        k = rule.k if rule.k is not None else math.ceil((rule.share or 0.0) * len(scores))
        fill(lambda: len(chosen.indices) >= k)
    elif rule.select == "topp":
        p = rule.p or 0.0
        fill(lambda: near(sum(masses[i] for i in chosen.indices), p))
    elif rule.select == "threshold":
        chosen.indices |= {i for i in order if near(masses[i], rule.threshold or 0.0)}
    elif rule.select == "elbow":
        ranked = [scores[i] for i in others] or [0.0]
        rise = (ranked[-1] - ranked[0]) / max(len(ranked) - 1, 1)
        below = [ranked[0] + rise * rank - score for rank, score in enumerate(ranked)]
        chosen.margin = min([abs(x - max(below)) for x in below if x != max(below)], default=math.inf)
        if max(below) > 0:
            chosen.indices |= set(others[: below.index(max(below))])
    fill(lambda: len(chosen.indices) >= rule.floor)
    for i in reversed(order):
        if rule.cap is not None and len(chosen.indices) > rule.cap and i not in always:
            chosen.indices.discard(i)
    return chosen


@dataclass
class Page:
    """The entries of prefix reads that follow one another on a page, on one plane: the keys `[n, D]`
    (float64) of each run of neighbouring slots, and all positions."""

    entries: list[int]
    id: tuple[int, int]
    read: int
    rows: range
    slots: range
    keys: list[Tensor]
    positions: list[int]


def plane_pages(chunks: list[Tensor], plan: Plan, plane: int) -> list[Page]:
    """The entries of all prefix reads on a plane, in the order of the plan."""
    num_planes, slabs_per_chunk = chunks[0].shape[:2]
    entries, ranges, listed = plan.entries.tolist(), plan.head_ranges.tolist(), plan.positions.tolist()
    found = []
    for read, (begin, end, row_begin, row_end, _, flags, _, _) in enumerate(plan.reads.tolist()):
        if flags & OWN:
            continue
        if flags & BY_HEAD:
            begin, end = ranges[begin + plane]
        for entry in range(begin, end):
            page_id, run, position, at = entries[entry]
            first, number, count = run & 0xFFF, run >> 12 & 0xF, run >> 16 & 0xFFFF
            if flags & BY_HEAD:
                chunk, index = divmod(page_id, num_planes * slabs_per_chunk)
                page = chunks[chunk].flatten(0, 1)[index]
            else:
                page = chunks[page_id // slabs_per_chunk][plane, page_id % slabs_per_chunk]
            keys = torch.from_numpy(pages.decode(page, number).keys) if number else page[0]
            positions = list(range(position, position + count)) if at < 0 else listed[at : at + count]
            own = keys[first : first + count].double()
            id, rows = (flags & BY_HEAD, page_id, number), range(row_begin, row_end)
            found.append(Page([entry], id, read, rows, range(first, first + count), [own], positions))
    return found


def above(plan: Plan, read: int) -> int | None:
    """The read above another on the path of its rows: the last before it with some of them, if it has all."""
    reads = plan.reads.tolist()
    for other in reversed(range(read)):
        shared = range(max(reads[other][2], reads[read][2]), min(reads[other][3], reads[read][3]))
        if not reads[other][5] & OWN and len(shared):
            return other if len(shared) == reads[read][3] - reads[read][2] else None
    return None


def joined(plan: Plan, entries: list[Page]) -> list[Page]:
    """The candidates of a row that sees these entries."""
    found: list[Page] = []
    for page in entries:
        if found and found[-1].id == page.id:
            last = found.pop()
            goes_on = page.read == last.read or follows(plan, page.read, last.read)
            if goes_on and last.slots.stop == page.slots.start:
                keys = [*last.keys[:-1], torch.cat([last.keys[-1], page.keys[0]])]
            else:
                keys = last.keys + page.keys
            positions = last.positions + page.positions
            page = Page(
                last.entries + page.entries, page.id, page.read, page.rows, page.slots, keys, positions
            )
        found.append(page)
    return found


def follows(plan: Plan, read: int, other: int) -> bool:
    """Whether a read stands below another, with nothing on the plane between them."""
    at = above(plan, read)
    while at is not None and at > other:
        at = above(plan, at)
    return at == other


@dataclass
class Sets:
    """What query heads read: `[num_kv_heads, group, num_rows, num_entries]`, and the nearest decision."""

    read: Tensor
    margin: float = math.inf


def selected(
    q: Tensor,
    chunks: list[Tensor],
    plan: Plan,
    rules: list[tuple[int, int, Rule]],
    *,
    layer: int,
    num_kv_heads: int,
    scale: float,
) -> Sets:
    """The entries that each row and query head reads; rows without a rule read everything."""
    num_rows, num_heads, _ = q.shape
    group = num_heads // num_kv_heads
    sets = Sets(torch.zeros(num_kv_heads, group, num_rows, len(plan.entries), dtype=torch.bool))
    planes = [plane_pages(chunks, plan, layer * num_kv_heads + head) for head in range(num_kv_heads)]
    queries = q.double() * scale
    for row in range(num_rows):
        rule = next((rule for begin, end, rule in rules if begin <= row < end), None)
        now = int(plan.row_positions[row])
        seen = [joined(plan, [page for page in pages if row in page.rows]) for pages in planes]
        if rule is None:
            for head, own in enumerate(seen):
                sets.read[head, :, row, [entry for page in own for entry in page.entries]] = True
            continue
        # By head, member and page, what each run of the page is worth.
        scores = [
            [
                [
                    [
                        estimate(rule.estimate, queries[row, head * group + member], keys, rule.slack)
                        for keys in page.keys
                    ]
                    for page in own
                ]
                for member in range(group)
            ]
            for head, own in enumerate(seen)
        ]
        for head, own in enumerate(seen):
            if not own:
                continue
            latest = max(range(len(own)), key=lambda i: (max(own[i].positions), i))
            forced = {latest} | {
                i
                for i, page in enumerate(own)
                if min(page.positions) < rule.sinks or now - max(page.positions) < rule.window
            }
            for member in range(group):
                if rule.group == "union":
                    scored = [max(runs) for runs in scores[head][member]]
                elif rule.group == "max":
                    scored = [max(map(max, runs)) for runs in zip(*scores[head], strict=True)]
                else:
                    members = [one for own_scores in scores for one in own_scores]
                    scored = [float(np.sum(runs, axis=0).max()) for runs in zip(*members, strict=True)]
                chosen = choose(rule, scored, [len(page.positions) for page in own], forced, latest)
                sets.margin = min(sets.margin, chosen.margin)
                read = [entry for i in chosen.indices for entry in own[i].entries]
                sets.read[head, member, row, read] = True
    return sets


def keys_seen(plan: Plan, read: Tensor, plane: int) -> Tensor:
    """Of `read [num_rows, num_entries]`, the keys that :func:`attention.gather` lists for a plane that a row
    may see, `[num_rows, K]`: those of its entries, and the step's own."""
    columns = []
    ranges = plan.head_ranges.tolist()
    for begin, end, row_begin, row_end, _, flags, _, _ in plan.reads.tolist():
        if flags & OWN:
            columns.append(torch.ones(len(read), row_end - row_begin, dtype=torch.bool))
            continue
        if flags & BY_HEAD:
            begin, end = ranges[begin + plane]
        for entry in range(begin, end):
            count = int(plan.entries[entry, 1]) >> 16 & 0xFFFF
            columns.append(read[:, entry, None].expand(-1, count))
    return torch.cat(columns, 1)


def attend(
    q: Tensor, chunks: list[Tensor], plan: Plan, read: Tensor, **options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`attention.bounded_tree_attention`, of what ``read``, as :class:`Sets` has it, names."""
    layer, num_kv_heads = options["layer"], options["num_kv_heads"]
    seen = [
        keys_seen(plan, read[head, member], layer * num_kv_heads + head)
        for head in range(read.shape[0])
        for member in range(read.shape[1])
    ]
    return attention.bounded_tree_attention(q, chunks, plan, seen=seen, **options)
