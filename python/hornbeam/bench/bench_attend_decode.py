"""Sparse decode attention on the CPU over our own dense attention of the same keys.

Both sides are one layer of 8 kv heads with 4 query heads each, 128 elements, bfloat16 pages of 16 tokens, one
sequence of 131,072 keys. Ours chooses pages by their bounds, as Quest does, and reads the chosen ones; the
bounds alone are 1/16 of the bytes of all keys and values.

- ``decode``: one row reads 1/16 of the pages: 8 times as fast is the limit;
- ``drafts_planted``: 8 rows of a draft tree choose 1/16 of the pages each, from 1/8 of all that were planted,
  so that together they read about 1/8; ``union`` is the share that they do read, ``over_bytes`` the time over
  that of reading the union and the bounds at the speed of the dense side.

Before anything is timed, sets and results are compared with plain torch on a shorter context.

    hornbeam bench attend_decode [--quick] [--only ROW ...]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from hornbeam import _native, ops
from hornbeam._native import AttendRule, Plan, Selection
from hornbeam.bench import harness
from hornbeam.bench.bench_attention import (
    DIM,
    GROUP,
    HEADS,
    KV_HEADS,
    PAGE_TOKENS,
    Pool,
    binary_tree,
    check_close,
    entries,
    make_plan,
)

TOKENS, SHARE, PLANTED, DRAFTS = 131_072, 1 / 16, 1 / 8, 8
#: How far the keys of planted pages, and all queries, lie from the others: no other page is chosen.
OFFSET = 8.0


@dataclass
class Layer:
    """One layer of a step: its queries, and a tree over the pool that the plan reads."""

    q: Tensor
    pool: Pool
    plan: Plan
    chunks: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        dtype = str(self.q.dtype).removeprefix("torch.")
        self.tree = _native.Tree(KV_HEADS, self.pool.num_slabs, PAGE_TOKENS, DIM, dtype)
        self.tree.add_chunk(self.chunks, self.pool.chunk)
        self.out = torch.empty_like(self.q)

    def select(self, rule: AttendRule) -> Selection:
        """What the rows read."""
        rules = [(0, len(self.q), rule)]
        return _native.select_pages(self.tree, self.q, self.chunks, self.plan, 0, KV_HEADS, None, rules)

    def dense(self) -> None:
        """Attention over all keys."""
        self.attend(None)

    def sparse(self, rule: AttendRule) -> None:
        """Selection, and attention over what is selected."""
        self.attend(self.select(rule))

    def attend(self, selection: Selection | None) -> None:
        """Attention over what is selected."""
        ops.tree_attention(
            self.q,
            self.chunks,
            self.plan,
            layer=0,
            num_kv_heads=KV_HEADS,
            out=self.out,
            selection=selection,
        )


def layer(tokens: int, rows: int, dtype: torch.dtype) -> Layer:
    """Rows of a draft tree after random keys, of which some pages were planted for their queries."""
    random = torch.Generator().manual_seed(tokens + rows)
    k, v = torch.randn(2, KV_HEADS, tokens, DIM, generator=random)
    q = torch.randn(rows, KV_HEADS, GROUP, DIM, generator=random)
    ways = torch.randn(KV_HEADS, DIM, generator=random)
    ways *= OFFSET / ways.norm(dim=1, keepdim=True)
    cached = tokens - PAGE_TOKENS
    pages = cached // PAGE_TOKENS
    for head, way in enumerate(ways):
        planted = torch.randperm(pages, generator=random)[: int(pages * PLANTED)]
        slots = (planted[:, None] * PAGE_TOKENS + torch.arange(PAGE_TOKENS)).flatten()
        k[head, slots] += way
        q[:, head] += way
    plan = make_plan([(entries(0, cached), 0, rows)], binary_tree(rows), cached)
    return Layer(q.reshape(rows, HEADS, DIM).to(dtype), Pool(k.to(dtype), v.to(dtype)), plan)


def check(rows: int) -> None:
    """Sets and results of a shorter context in float32 against plain torch."""
    tokens = 4096
    case = layer(tokens, rows, torch.float32)
    keys, values = case.pool.chunk.permute(0, 2, 1, 3, 4).reshape(KV_HEADS, 2, tokens, DIM).unbind(1)
    pages = tokens // PAGE_TOKENS - 1
    paged = keys[:, : pages * PAGE_TOKENS].view(KV_HEADS, pages, PAGE_TOKENS, DIM)
    greatest, least = paged.amax(2), paged.amin(2)
    rule = AttendRule(estimate="bounds", select="topk", share=SHARE)
    selection = case.select(rule)
    ends = binary_tree(rows)
    for head in range(KV_HEADS):
        q = case.q.view(rows, KV_HEADS, GROUP, DIM)[:, head]
        scores = torch.maximum(q[:, :, None] * greatest[head], q[:, :, None] * least[head]).sum(-1).amax(1)
        scores[:, -1] = torch.inf  # the last page is always read
        seen = torch.zeros(rows, pages, dtype=torch.bool)
        seen.scatter_(1, scores.topk(-(-pages // 16), dim=1).indices, True)
        if not torch.equal(torch.from_numpy(selection.mask(head, 0))[:, :pages], seen):
            raise AssertionError(f"kv head {head} selects other pages than plain torch")
        visible = torch.zeros(rows, tokens, dtype=torch.bool)
        visible[:, : pages * PAGE_TOKENS] = seen.repeat_interleave(PAGE_TOKENS, 1)
        for key, end in enumerate(ends):
            visible[key:end, pages * PAGE_TOKENS + key] = True
        case.attend(selection)
        want = sdpa(
            q.transpose(0, 1)[None], keys[head, None, None], values[head, None, None], attn_mask=visible
        )
        ours = case.out.view(rows, KV_HEADS, GROUP, DIM)[:, head]
        check_close(ours, want[0].transpose(0, 1))


def measured(rows: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Ours over dense, with the parts of ours."""
    check(rows)
    case = layer(tokens, rows, torch.bfloat16)
    rule = AttendRule(estimate="bounds", select="topk", share=SHARE)
    selection = case.select(rule)
    union = selection.union_keys / selection.plan_keys
    calls: dict[str, Callable[[], None]] = {
        "sparse": partial(case.sparse, rule),
        "dense": case.dense,
        "select": partial(_nothing, case, rule),
        "attend": partial(case.attend, selection),
    }
    times = harness.alternate(calls, rounds)
    ratio = harness.ratio(times["sparse"], times["dense"])
    return {
        "tokens": tokens,
        "vs_dense": ratio,
        "union": union,
        "over_bytes": 1 / ratio.median / (union + 1 / PAGE_TOKENS),
        "select_share": harness.ratio(times["sparse"], times["select"]).median,
        "attend_share": harness.ratio(times["sparse"], times["attend"]).median,
    }


def _nothing(case: Layer, rule: AttendRule) -> None:
    """A selection whose result says nothing about its time."""
    case.select(rule)


def run(quick: bool = False, only: Iterable[str] | None = None) -> dict[str, Any]:
    """All rows, or those named; ``quick`` takes 16,384 keys."""
    tokens, rounds = (16_384, 7) if quick else (TOKENS, 11)
    rows = {
        "decode": partial(measured, 1, tokens, rounds),
        "drafts_planted": partial(measured, DRAFTS, tokens, rounds),
    }
    return harness.run_rows(rows, only)
