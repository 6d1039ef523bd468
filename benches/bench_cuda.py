"""The CUDA lane against PyTorch's kernels, on a device.

Three questions: the share of memory bandwidth that tree attention reaches against folded SDPA and
FlexAttention; how much faster fused verification is than PyTorch's softmax path; what a launch from
Python costs. FlashInfer is compared where it is installed. Every pair is checked for equality first.
Without a device it says why and measures nothing: under ``run`` that is its result, as a program it
exits with 1.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import harness
from hornbeam import Warp, _native, cuda, ops

HEADS, KV_HEADS, HEAD_DIM, PAGE_TOKENS = 32, 8, 128, 16


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Of one call, on the device, by events."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / repeats


def compare(ours: Callable[[], object], theirs: Callable[[], object], repeats: int = 20) -> harness.Ratio:
    """Their device time over ours, in alternation."""
    calls = {"ours": lambda: seconds(ours, repeats), "theirs": lambda: seconds(theirs, repeats)}
    series = harness.alternate(calls)
    return harness.ratio(series["ours"], series["theirs"])


def chain_plan(num_keys: int, num_rows: int) -> tuple[list[torch.Tensor], _native.Plan]:
    """A prefix of whole pages, and rows that each see it and themselves: siblings of a draft tree."""
    prefix = -(-num_keys // PAGE_TOKENS)
    own = -(-num_rows // PAGE_TOKENS)
    generator = torch.Generator(device="cuda").manual_seed(0)
    shape = (KV_HEADS, prefix + own, 2, PAGE_TOKENS, HEAD_DIM)
    chunk = torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)
    entries = [[i, PAGE_TOKENS << 16, i * PAGE_TOKENS, -1] for i in range(prefix)]
    for i in range(own):
        count = min(PAGE_TOKENS, num_rows - i * PAGE_TOKENS)
        entries.append([prefix + i, count << 16, 0, i * PAGE_TOKENS])
    reads = [
        [0, prefix, 0, num_rows, prefix * PAGE_TOKENS, 0, -1, 0],
        [prefix, prefix + own, 0, num_rows, num_rows, 1, -1, 0],
    ]
    slots = [[prefix + i // PAGE_TOKENS, i % PAGE_TOKENS] for i in range(num_rows)]
    rows = np.arange(num_rows, dtype=np.int32)
    positions = np.full(num_rows, prefix * PAGE_TOKENS, dtype=np.int32)
    arrays = [np.array(a, dtype=np.int32) for a in (entries, reads, slots)]
    empty = np.zeros((0, 2), dtype=np.int32)
    plan = _native.Plan(arrays[0], positions, empty, arrays[1], positions, rows + 1, arrays[2])
    return [chunk], plan


def attention(num_keys: int, num_rows: int) -> dict[str, Any]:
    chunks, plan = chain_plan(num_keys, num_rows)
    q = torch.randn(num_rows, HEADS, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(q)
    group = HEADS // KV_HEADS
    pages = -(-num_keys // PAGE_TOKENS)
    chunk = chunks[0]
    # Contiguous keys for the others: the prefix, then the rows' own.
    k, v = chunk.transpose(1, 2).flatten(2, 3)[:, :, : pages * PAGE_TOKENS + num_rows].unbind(1)
    k, v = k.contiguous()[None], v.contiguous()[None]
    mask = torch.ones(num_rows, k.shape[2], dtype=torch.bool, device="cuda")
    mask[:, pages * PAGE_TOKENS :] = torch.eye(num_rows, dtype=torch.bool, device="cuda")
    folded = (
        q.view(num_rows, KV_HEADS, group, HEAD_DIM).permute(1, 2, 0, 3).reshape(1, KV_HEADS, -1, HEAD_DIM)
    )
    folded_mask = mask.repeat(group, 1)

    def ours() -> torch.Tensor:
        return ops.tree_attention(q, chunks, plan, layer=0, num_kv_heads=KV_HEADS, out=out)

    def sdpa() -> torch.Tensor:
        return F.scaled_dot_product_attention(folded, k, v, attn_mask=folded_mask)

    def unfold(x: torch.Tensor) -> torch.Tensor:
        return x.view(KV_HEADS, group, num_rows, HEAD_DIM).permute(2, 0, 1, 3).reshape(q.shape)

    torch.testing.assert_close(ours(), unfold(sdpa()), atol=2e-2, rtol=2e-2)
    report: dict[str, Any] = {"sdpa folded": compare(ours, sdpa)}
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def sees(_b: Any, _h: Any, row: Any, key: Any) -> Any:
        return mask[row, key]

    blocks = create_block_mask(sees, None, None, num_rows, k.shape[2], device="cuda")
    compiled = torch.compile(flex_attention)
    heads_first = q.transpose(0, 1)[None]

    def flex() -> torch.Tensor:
        return compiled(heads_first, k, v, block_mask=blocks, enable_gqa=True)

    torch.testing.assert_close(ours(), flex()[0].transpose(0, 1), atol=2e-2, rtol=2e-2)
    report["flex attention"] = compare(ours, flex)
    read = 2 * k.numel() * k.element_size()
    report["bytes a second"] = read / report["sdpa folded"].ours_seconds
    if importlib.util.find_spec("flashinfer") is not None:
        import flashinfer

        def peer() -> torch.Tensor:
            return flashinfer.single_prefill_with_kv_cache(
                q, k[0].transpose(0, 1), v[0].transpose(0, 1), custom_mask=mask
            )

        torch.testing.assert_close(ours(), peer(), atol=2e-2, rtol=2e-2)
        report["flashinfer"] = compare(ours, peer)
    return report


def copy_bandwidth() -> float:
    """Bytes a second that a copy of 1 GiB reads and writes: what attention is set against."""
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    seconds(lambda: b.copy_(a), 3)
    return 2 * a.numel() / seconds(lambda: b.copy_(a), 20)


def verification(batch: int, depth: int, vocabulary: int) -> dict[str, Any]:
    """Coupled verification of chains against softmax, sort, cumulated mass and a draw in PyTorch."""
    warp = Warp(temperature=0.8, top_p=0.95)
    logits = torch.randn(batch * (depth + 1), vocabulary, device="cuda", dtype=torch.bfloat16) * 3
    tokens = torch.randint(vocabulary, (batch * depth,))
    parents = torch.arange(-1, depth - 1, dtype=torch.int32).repeat(batch)
    offsets = torch.arange(batch + 1, dtype=torch.int32) * depth
    positions = torch.zeros(batch, dtype=torch.int64)
    tree = (tokens, parents, offsets)

    def ours() -> Any:
        return ops.verify(*tree, logits, rule="coupled", warp=warp, positions=positions)

    def theirs() -> torch.Tensor:
        law = torch.softmax(logits.float() / 0.8, dim=-1)
        ordered, ids = law.sort(dim=-1, descending=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered > 0.95, 0)
        return ids.gather(-1, torch.multinomial(ordered, 1))

    on_host = ops.verify(*tree, logits.cpu(), rule="coupled", warp=warp, positions=positions)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(ours(), on_host, strict=True))
    return {"softmax path": compare(ours, theirs, repeats=3)}


def launch_seconds() -> float:
    """Wall time of an eager attention call over 32 keys, as the host sees it: nothing is waited for."""
    chunks, plan = chain_plan(32, 1)
    q = torch.randn(1, HEADS, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(q)
    best = math.inf
    for _ in range(50):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(20):
            ops.tree_attention(q, chunks, plan, layer=0, num_kv_heads=KV_HEADS, out=out)
        best = min(best, (time.perf_counter() - begin) / 20)
    return best


def run(quick: bool) -> dict[str, Any]:
    """All measurements, or the reason for which there are none."""
    status = cuda.status()
    if not status["available"]:
        return {"skipped": status["reason"]}
    report: dict[str, Any] = {"device": status["devices"][0], "copy bytes a second": copy_bandwidth()}
    for num_keys in (4096,) if quick else (4096, 32_768, 131_072):
        for num_rows in (1, 8):
            report[f"attention, {num_rows} rows over {num_keys} keys"] = attention(num_keys, num_rows)
    report["verify, 64 chains of 8, 151936 tokens"] = verification(4 if quick else 64, 8, 151_936)
    report["attention launch, seconds"] = launch_seconds()
    return report


if __name__ == "__main__":
    if not cuda.status()["available"]:
        sys.exit(f"nothing measured: {cuda.status()['reason']}")
    command = "python benches/bench_cuda.py"
    print(harness.write("cuda", run("--quick" in sys.argv), command))
