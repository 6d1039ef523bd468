"""Tree attention on the CPU against torch's scaled_dot_product_attention.

Every case checks that both sides agree, then times them in alternation and prints the median ratio
with its interval. Peers:

- `folded`: SDPA on contiguous K and V with the query heads of a kv head folded into rows,
  `[1, Hk, G * rows, D]`: the fastest way we know to call it, with a mask where the case needs one;
- `transformers`: `repeat_kv` and then SDPA, as transformers calls it.

    PYTHONPATH=python .venv/bin/python benches/bench_attention.py [--quick] [--json PATH]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

import hornbeam.ops as ops
from hornbeam._native import Plan, instruction_sets

HEADS, KV_HEADS, DIM, PAGE_TOKENS = 32, 8, 128, 16
GROUP = HEADS // KV_HEADS


def alternate(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each candidate, called in turn `rounds` times after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        call()
    for _ in range(rounds):
        for name, call in candidates.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return times


def ratio(times: dict[str, list[float]], ours: str, theirs: str) -> dict[str, float]:
    """Median of the ratios of neighbours, and its interval from the order statistics (95 %)."""
    ratios = sorted(a / b for a, b in zip(times[ours], times[theirs], strict=True))
    n = len(ratios)
    reach = max(0, int((n - 1.96 * n**0.5) / 2))
    return {
        "median": statistics.median(ratios),
        "low": ratios[reach],
        "high": ratios[n - 1 - reach],
        f"{ours}_ms": statistics.median(times[ours]) * 1e3,
        f"{theirs}_ms": statistics.median(times[theirs]) * 1e3,
    }


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


def sgemm_peak() -> float:
    """Multiply-adds a second of torch's own float32 matrix product, the best of several."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    times = alternate({"gemm": lambda: a @ b}, 10)["gemm"]
    return 1024**3 / min(times)


def one_step(tokens: int, rows: int, dtype: torch.dtype, rounds: int, *, peers: bool) -> dict:
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

    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: ops.tree_attention(q, [pool.chunk], plan, layer=0, num_kv_heads=KV_HEADS, out=out),
        "folded": lambda: sdpa(folded, k, v, attn_mask=folded_mask),
    }
    calls["ours"]()
    check_close(out, unfold(calls["folded"](), rows))
    times = alternate(calls, rounds)
    result = {"vs_folded": ratio(times, "ours", "folded")}
    if peers:
        check_close(out, transformers()[0].transpose(0, 1))
        slow = alternate({"ours": calls["ours"], "transformers": transformers}, 3)
        result["vs_transformers"] = ratio(slow, "ours", "transformers")
    work = 2 * rows * HEADS * DIM * length
    best = min(times["ours"])
    result["multiply_adds_per_s"] = work / best
    result["bytes_per_s"] = 2 * KV_HEADS * length * DIM * q.element_size() / best
    return result


def branches(rounds: int) -> dict:
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
    times = alternate({"branches": lambda: call(many), "one": lambda: call(one)}, rounds)
    return ratio(times, "branches", "one")


def prefill(prefix: int, rows: int, rounds: int) -> dict:
    """A chunk of a prompt: causal rows over a prefix."""
    q, k, v = tensors(prefix + rows, rows, torch.bfloat16)
    pool = Pool(k, v)
    plan = make_plan([(entries(0, prefix), 0, rows)], [rows] * rows, prefix)
    out = torch.empty_like(q)
    calls = {
        "ours": lambda: ops.tree_attention(q, [pool.chunk], plan, layer=0, num_kv_heads=KV_HEADS, out=out)
    }
    times = alternate(calls, rounds)
    work = 2 * HEADS * DIM * (rows * prefix + rows * (rows + 1) // 2)
    return {
        "ours_ms": statistics.median(times["ours"]) * 1e3,
        "multiply_adds_per_s": work / min(times["ours"]),
    }


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


def run(quick: bool) -> dict:
    """All cases; `quick` takes shorter contexts and fewer rounds."""
    tokens, rounds = (8192, 7) if quick else (32768, 15)
    peak = sgemm_peak()
    results: dict = {"sgemm_multiply_adds_per_s": peak, "isa": instruction_sets()[1], "tokens": tokens}
    for dtype in (torch.bfloat16, torch.float32):
        for rows in (1, 8, 32):
            name = f"{rows} rows {str(dtype).removeprefix('torch.')}"
            few = 7 if rows == 32 else rounds
            case = one_step(tokens, rows, dtype, few, peers=not quick and dtype is torch.bfloat16)
            case["share_of_sgemm"] = case["multiply_adds_per_s"] / peak
            results[name] = case
    results["32 branches vs one"] = branches(rounds)
    for prefix, rows in ((0, 512), (4096, 512)):
        case = prefill(prefix, rows, 7)
        case["share_of_sgemm"] = case["multiply_adds_per_s"] / peak
        results[f"prefill {rows} after {prefix}"] = case
    results["overhead_us"] = overhead(20)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = run(arguments.quick)
    print(f"threads {torch.get_num_threads()}, {results['isa']}, {results['tokens']} tokens")
    print(f"sgemm {results['sgemm_multiply_adds_per_s'] / 1e9:.1f} G multiply-adds/s")
    for name, case in results.items():
        if isinstance(case, dict):
            print(name)
            for key, value in case.items():
                if isinstance(value, dict):
                    shown = ", ".join(f"{k} {v:.3f}" for k, v in value.items())
                else:
                    shown = f"{value / 1e9:.1f} G" if value > 1e6 else f"{value:.3f}"
                print(f"    {key}: {shown}")
    print(f"overhead {results['overhead_us']:.2f} us a call")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
