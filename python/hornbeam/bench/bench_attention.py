"""Tree attention on the CPU against torch's scaled_dot_product_attention.

Every case checks that both sides agree, then times them in alternation. Ratios say how many times as
fast ours is: 0.7 of the time is a ratio of 1.43. Peers:

- `folded`: SDPA on contiguous K and V with the query heads of a kv head folded into rows,
  `[1, Hk, G * rows, D]`: the fastest way we know to call it, with a mask where the case needs one;
- `transformers`: `repeat_kv` and then SDPA, as transformers calls it.

Speeds are given as shares of two peaks: torch's float32 matrix product, and multiply-adds between
registers (``rust/core/examples/multiply_add_peak.rs``), which nothing on this machine can exceed.

    hornbeam bench attention [--quick]
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

import hornbeam.ops as ops
from hornbeam._native import Plan
from hornbeam.bench import harness

HEADS, KV_HEADS, DIM, PAGE_TOKENS = 32, 8, 128, 16
GROUP = HEADS // KV_HEADS


class Pool:
    """Pages of one layer, filled from contiguous K and V `[Hk, tokens, D]`."""

    def __init__(self, k: Tensor, v: Tensor) -> None:
        tokens = k.shape[1]
        self.num_slabs = tokens // PAGE_TOKENS
        pages = torch.stack([k, v], 1).view(KV_HEADS, 2, self.num_slabs, PAGE_TOKENS, DIM)
        self.chunk = pages.transpose(1, 2).contiguous()


def entries(first_token: int, num_tokens: int, position: int = 0) -> list[list[int]]:
    """Whole pages that hold tokens stored one after the other."""
    assert first_token % PAGE_TOKENS == num_tokens % PAGE_TOKENS == 0
    first = first_token // PAGE_TOKENS
    return [
        [first + i, PAGE_TOKENS << 16, position + i * PAGE_TOKENS, -1]
        for i in range(num_tokens // PAGE_TOKENS)
    ]


def make_plan(reads: list[tuple[list[list[int]], int, int]], row_end: list[int], first_slot: int) -> Plan:
    """Prefix reads (entries, row begin, row end), then one own read; row `i` is token `first_slot + i`."""
    table: list[list[int]] = []
    rows = []
    for run, begin, end in reads:
        keys = sum(entry[1] >> 16 for entry in run)
        rows.append([len(table), len(table) + len(run), begin, end, keys, 0, -1, 0])
        table += run
    n = len(row_end)
    rows.append([0, 0, 0, n, n, 1, -1, 0])
    slots = [[(first_slot + i) // PAGE_TOKENS, (first_slot + i) % PAGE_TOKENS] for i in range(n)]
    return Plan(
        np.array(table, np.int32).reshape(-1, 4),
        np.zeros(0, np.int32),
        np.zeros((0, 2), np.int32),
        np.array(rows, np.int32),
        np.full(n, 1 << 20, np.int32),
        np.array(row_end, np.int32),
        np.array(slots, np.int32),
    )


def binary_tree(rows: int) -> list[int]:
    """Ends of subtrees of a complete binary tree in depth-first order."""
    ends = [0] * rows

    def build(begin: int, end: int) -> None:
        ends[begin] = end
        left = end - begin - 1
        if left > 0:
            middle = begin + 1 + (left + 1) // 2
            build(begin + 1, middle)
            if middle < end:
                build(middle, end)

    build(0, rows)
    return ends


def tensors(tokens: int, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens + rows)
    q = torch.randn(rows, HEADS, DIM, generator=generator).to(dtype)
    k, v = (torch.randn(KV_HEADS, tokens, DIM, generator=generator).to(dtype) for _ in range(2))
    return q, k, v


def fold(q: Tensor) -> Tensor:
    """`[rows, H, D]` to `[1, Hk, G * rows, D]`."""
    return q.view(-1, KV_HEADS, GROUP, DIM).permute(1, 2, 0, 3).reshape(1, KV_HEADS, -1, DIM)


def unfold(out: Tensor, rows: int) -> Tensor:
    return out.view(KV_HEADS, GROUP, rows, DIM).permute(2, 0, 1, 3).reshape(rows, HEADS, DIM)


def check_close(ours: Tensor, theirs: Tensor) -> None:
    scale = theirs.float().abs().max().item()
    worst = (ours.float() - theirs.float()).abs().max().item()
    bound = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}[ours.dtype]
    if worst > bound * scale:
        raise AssertionError(f"results differ by {worst}, largest value {scale}")


def silent(call: Callable[[], object]) -> Callable[[], None]:
    """A call whose result says nothing about its time."""

    def run() -> None:
        call()

    return run


def sgemm_peak() -> float:
    """Multiply-adds a second of torch's own float32 matrix product, the best of several."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 1024**3 / min(harness.alternate({"gemm": silent(lambda: a @ b)}, 10)["gemm"])


def register_peak() -> float | None:
    """Multiply-adds a second between registers on torch's number of threads; ``None`` without a checkout and
    cargo."""
    cargo = shutil.which("cargo")
    if cargo is None or harness.CHECKOUT is None:
        return None
    example = [
        "run",
        "--quiet",
        "--profile",
        "dist",
        "--package",
        "hornbeam-core",
        "--example",
        "multiply_add_peak",
    ]
    command = [cargo, *example, "--", str(torch.get_num_threads())]
    done = subprocess.run(command, cwd=harness.CHECKOUT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def one_step(
    tokens: int, rows: int, dtype: torch.dtype, rounds: int, peaks: dict[str, float], *, peers: bool
) -> dict[str, Any]:
    """`rows` rows of a draft tree after `tokens - rows` cached tokens of one sequence."""
    q, k, v = tensors(tokens, rows, dtype)
    pool = Pool(k, v)
    cached = tokens - PAGE_TOKENS * -(-rows // PAGE_TOKENS)
    ends = binary_tree(rows)
    plan = make_plan([(entries(0, cached), 0, rows)], ends, cached)
    length = cached + rows
    k, v = k[None, :, :length], v[None, :, :length]
    mask = None
    if rows > 1:
        visible = torch.ones(rows, length, dtype=torch.bool)
        for key in range(rows):
            visible[:, cached + key] = False
            visible[key : ends[key], cached + key] = True
        # SDPA is fastest with an additive mask of its own dtype.
        mask = torch.zeros(rows, length, dtype=dtype).masked_fill_(~visible, -torch.inf)
    folded_mask = None if mask is None else mask.repeat(GROUP, 1)[None, None]
    out = torch.empty_like(q)
    folded = fold(q)
    full = q.transpose(0, 1)[None]

    def transformers() -> Tensor:
        keys, values = (
            x[:, :, None].expand(-1, -1, GROUP, -1, -1).reshape(1, HEADS, length, DIM) for x in (k, v)
        )
        return sdpa(full, keys, values, attn_mask=None if mask is None else mask[None, None])

    calls: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: ops.tree_attention(q, [pool.chunk], plan, layer=0, num_kv_heads=KV_HEADS, out=out),
        "folded": lambda: sdpa(folded, k, v, attn_mask=folded_mask),
    }
    calls["ours"]()
    check_close(out, unfold(calls["folded"](), rows))
    times = harness.alternate({name: silent(call) for name, call in calls.items()}, rounds)
    result: dict[str, Any] = {"vs_folded": harness.ratio(times["ours"], times["folded"])}
    if peers:
        check_close(out, transformers()[0].transpose(0, 1))
        slow = harness.alternate({"ours": silent(calls["ours"]), "transformers": silent(transformers)})
        result["vs_transformers"] = harness.ratio(slow["ours"], slow["transformers"])
    work = 2 * rows * HEADS * DIM * length
    result |= speed(work, times["ours"], peaks)
    result["folded"] = speed(work, times["folded"], peaks)
    result["bytes_per_s"] = 2 * KV_HEADS * length * DIM * q.element_size() / min(times["ours"])
    return result


def speed(work: int, seconds: list[float], peaks: dict[str, float]) -> dict[str, float]:
    """Multiply-adds a second at best, and as shares of the peaks."""
    rate = work / min(seconds)
    return {"multiply_adds_per_s": rate} | {f"share_of_{name}": rate / peak for name, peak in peaks.items()}


def branches(rounds: int) -> harness.Ratio:
    """32 branches of 64 keys over one prefix of 4,096, against one branch with 32 rows."""
    prefix, count, own = 4096, 32, 64
    tokens = prefix + count * own + count * PAGE_TOKENS
    q, k, v = tensors(tokens, count, torch.bfloat16)
    pool = Pool(k, v)
    first = prefix + count * own
    each = [(entries(prefix + i * own, own), i, i + 1) for i in range(count)]
    many = make_plan([(entries(0, prefix), 0, count), *each], list(range(1, count + 1)), first)
    one = make_plan([(entries(0, prefix + own), 0, count)], binary_tree(count), first)

    def call(plan: Plan) -> Tensor:
        return ops.tree_attention(q, [pool.chunk], plan, layer=0, num_kv_heads=KV_HEADS)

    result = call(many)
    for i in (0, 7, 31):
        keys, values = (
            torch.cat(
                [x[:, :prefix], x[:, prefix + i * own : prefix + (i + 1) * own], x[:, first + i, None]], 1
            )
            for x in (k, v)
        )
        check_close(result[i, None], unfold(sdpa(fold(q[i, None]), keys[None], values[None]), 1))
    calls = {"branches": silent(lambda: call(many)), "one": silent(lambda: call(one))}
    times = harness.alternate(calls, rounds)
    return harness.ratio(times["branches"], times["one"])


def prefill(prefix: int, rows: int, peaks: dict[str, float]) -> dict[str, float]:
    """A chunk of a prompt: causal rows over a prefix."""
    q, k, v = tensors(prefix + rows, rows, torch.bfloat16)
    pool = Pool(k, v)
    plan = make_plan([(entries(0, prefix), 0, rows)], [rows] * rows, prefix)
    out = torch.empty_like(q)

    def call() -> None:
        ops.tree_attention(q, [pool.chunk], plan, layer=0, num_kv_heads=KV_HEADS, out=out)

    times = harness.alternate({"ours": call})["ours"]
    work = 2 * HEADS * DIM * (rows * prefix + rows * (rows + 1) // 2)
    return {"ours_seconds": statistics.median(times), **speed(work, times, peaks)}


def overhead(rounds: int) -> float:
    """Microseconds of a call that has next to nothing to do: one row, one key, one head of 32."""
    chunk = torch.zeros(1, 1, 2, PAGE_TOKENS, 32)
    plan = make_plan([], [1], 0)
    q, out = torch.zeros(1, 1, 32), torch.zeros(1, 1, 32)
    best = float("inf")
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(1000):
            ops.tree_attention(q, [chunk], plan, layer=0, num_kv_heads=1, out=out)
        best = min(best, time.perf_counter() - begin)
    return best * 1e3


def run(quick: bool = False) -> dict[str, Any]:
    """All cases; ``quick`` takes shorter contexts, fewer rounds and no ``transformers``."""
    tokens, rounds = (8192, 7) if quick else (32768, 15)
    peaks = {"sgemm": sgemm_peak()}
    registers = register_peak()
    if registers is not None:
        peaks["register_peak"] = registers
    results: dict[str, Any] = {"multiply_adds_per_s": peaks, "tokens": tokens}
    for dtype in (torch.bfloat16, torch.float32):
        for rows in (1, 8, 32):
            peers = not quick and dtype is torch.bfloat16
            case = one_step(tokens, rows, dtype, rounds, peaks, peers=peers)
            results[f"{rows} rows {str(dtype).removeprefix('torch.')}"] = case
    results["32 branches vs one"] = branches(rounds)
    for prefix, rows in ((0, 512), (4096, 512)):
        results[f"prefill {rows} after {prefix}"] = prefill(prefix, rows, peaks)
    results["overhead_us"] = overhead(20)
    return results
