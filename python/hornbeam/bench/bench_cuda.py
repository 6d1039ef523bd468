"""The CUDA lane against PyTorch's kernels, on a device.

Four questions: the share of memory bandwidth that tree attention reaches, against folded SDPA and
FlexAttention, and against FlashInfer, vLLM's and SGLang's kernels where they are installed; how much
faster fused verification is than PyTorch's softmax path, and than FlashInfer's sampling; what a launch
from Python costs; what a whole decode costs, eager and captured. Every pair is checked for equality
first; ``--check`` does nothing else, and runs on small shapes anywhere, by the host emulation.

Without a device it says why and measures nothing: under ``run`` that is its result, as a program it
exits with 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hornbeam import Warp, _native, cuda, ops
from hornbeam.bench import harness
from hornbeam.bench.workload import ignoring

PAGE_TOKENS = 16


@dataclass(frozen=True)
class Heads:
    """The attention of one layer."""

    query: int = 32
    key: int = 8
    dim: int = 128

    @property
    def group(self) -> int:
        return self.query // self.key


@dataclass(frozen=True)
class Pair:
    """Two calls that do the same work, and a check that they do."""

    name: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    check: Callable[[], None]


def installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def absent_peers() -> list[str]:
    """Peers that a device could run, and that are not installed."""
    return [peer for peer in ("flashinfer", "vllm", "sgl_kernel") if not installed(peer)]


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Of one call, on the device, by events."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / repeats


def compare(pair: Pair, repeats: int = 20) -> harness.Ratio:
    """Their device time over ours, in alternation, after the check."""
    pair.check()
    calls = {
        "ours": lambda: seconds(pair.ours, repeats),
        "theirs": lambda: seconds(pair.theirs, repeats),
    }
    series = harness.alternate(calls)
    return harness.ratio(series["ours"], series["theirs"])


def siblings_plan(num_keys: int, num_rows: int, heads: Heads, device: str) -> tuple[list[torch.Tensor], Any]:
    """A prefix of whole pages, and rows that each see it and themselves: siblings of a draft tree."""
    prefix = -(-num_keys // PAGE_TOKENS)
    own = -(-num_rows // PAGE_TOKENS)
    generator = torch.Generator(device=device).manual_seed(0)
    shape = (heads.key, prefix + own, 2, PAGE_TOKENS, heads.dim)
    chunk = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
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


def attention_pairs(
    num_keys: int, num_rows: int, heads: Heads, device: str, *, compiled: bool = True
) -> Iterator[Pair]:
    """Tree attention against the others, over contiguous keys and a mask for them."""
    chunks, plan = siblings_plan(num_keys, num_rows, heads, device)
    shape = (num_rows, heads.query, heads.dim)
    q = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, torch.bfloat16)
    out = torch.empty_like(q)
    prefix = -(-num_keys // PAGE_TOKENS) * PAGE_TOKENS
    # Contiguous keys for the others: the prefix, then the rows' own.
    k, v = chunks[0].transpose(1, 2).flatten(2, 3)[:, :, : prefix + num_rows].unbind(1)
    k, v = k.contiguous()[None], v.contiguous()[None]
    mask = torch.ones(num_rows, prefix + num_rows, dtype=torch.bool, device=device)
    mask[:, prefix:] = torch.eye(num_rows, dtype=torch.bool, device=device)

    def ours() -> torch.Tensor:
        return ops.tree_attention(q, chunks, plan, layer=0, num_kv_heads=heads.key, out=out)

    def pair(name: str, theirs: Callable[[], Any], seen: Callable[[Any], torch.Tensor]) -> Pair:
        def check() -> None:
            torch.testing.assert_close(ours(), seen(theirs()), atol=2e-2, rtol=2e-2)

        return Pair(name, ours, theirs, check)

    folded = q.view(num_rows, heads.key, heads.group, heads.dim).permute(1, 2, 0, 3)
    folded = folded.reshape(1, heads.key, -1, heads.dim)
    folded_mask = mask.repeat(heads.group, 1)

    def sdpa() -> torch.Tensor:
        return F.scaled_dot_product_attention(folded, k, v, attn_mask=folded_mask)

    def unfold(x: torch.Tensor) -> torch.Tensor:
        return x.view(heads.key, heads.group, num_rows, heads.dim).permute(2, 0, 1, 3).reshape(q.shape)

    yield pair("sdpa folded", sdpa, unfold)
    if compiled:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        def sees(_b: Any, _h: Any, row: Any, key: Any) -> Any:
            return mask[row, key]

        blocks = create_block_mask(sees, None, None, num_rows, k.shape[2], device=device)
        flexible = torch.compile(flex_attention)
        rows_last = q.transpose(0, 1)[None]
        yield pair(
            "flex attention",
            lambda: flexible(rows_last, k, v, block_mask=blocks, enable_gqa=True),
            lambda x: x[0].transpose(0, 1),
        )
    if installed("flashinfer"):
        import flashinfer

        keys, values = k[0].transpose(0, 1).contiguous(), v[0].transpose(0, 1).contiguous()
        yield pair(
            "flashinfer",
            lambda: flashinfer.single_prefill_with_kv_cache(q, keys, values, custom_mask=mask),
            lambda x: x,
        )
    if installed("vllm", "vllm.vllm_flash_attn") and num_rows == 1:
        from vllm.vllm_flash_attn import flash_attn_varlen_func

        keys, values = k[0].transpose(0, 1).contiguous(), v[0].transpose(0, 1).contiguous()
        lengths = [torch.tensor([0, n], dtype=torch.int32, device=device) for n in (1, k.shape[2])]

        def vllm_attention() -> torch.Tensor:
            return flash_attn_varlen_func(
                q,
                keys,
                values,
                max_seqlen_q=1,
                cu_seqlens_q=lengths[0],
                max_seqlen_k=k.shape[2],
                cu_seqlens_k=lengths[1],
            )

        yield pair("vllm flash attention", vllm_attention, lambda x: x)
    if installed("sgl_kernel", "sgl_kernel.flash_attn") and num_rows == 1:
        from sgl_kernel.flash_attn import flash_attn_with_kvcache

        keys, values = k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()
        length = torch.tensor([k.shape[2]], dtype=torch.int32, device=device)
        yield pair(
            "sglang flash attention",
            lambda: flash_attn_with_kvcache(q[None], keys, values, cache_seqlens=length),
            lambda x: x.view(q.shape),
        )


def verification_pairs(batch: int, depth: int, vocabulary: int, device: str) -> Iterator[Pair]:
    """Coupled verification of chains against softmax, sort, cumulated mass and a draw in PyTorch."""
    warp = Warp(temperature=0.8, top_p=0.95)
    generator = torch.Generator(device=device).manual_seed(0)
    shape = (batch * (depth + 1), vocabulary)
    logits = torch.randn(shape, generator=generator, device=device).to(torch.bfloat16) * 3
    tokens = torch.randint(vocabulary, (batch * depth,), generator=torch.Generator().manual_seed(1))
    parents = torch.arange(-1, depth - 1, dtype=torch.int32).repeat(batch)
    offsets = torch.arange(batch + 1, dtype=torch.int32) * depth
    tree = (tokens, parents, offsets)
    options: dict[str, Any] = {
        "rule": "coupled",
        "warp": warp,
        "positions": torch.zeros(batch, dtype=torch.int64),
    }

    def ours() -> Any:
        return ops.verify(*tree, logits, **options)

    def theirs() -> torch.Tensor:
        law = torch.softmax(logits.float() / 0.8, dim=-1)
        ordered, ids = law.sort(dim=-1, descending=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered > 0.95, 0)
        return ids.gather(-1, torch.multinomial(ordered, 1))

    handles = ([warp._handle], [warp._handle])  # type: ignore[attr-defined]

    def check() -> None:
        # The CPU's own kernel, by its native name: the emulation takes CPU tensors for the device's.
        want = ops.Verified(
            torch.empty((batch, depth), dtype=torch.int32),
            torch.empty(batch, dtype=torch.int32),
            torch.empty(batch, dtype=torch.int64),
        )
        head = (*tree, logits.cpu(), None, "coupled", 0.3, 0.09, *handles)
        _native.verify(*head, 0, None, options["positions"], None, *want, None)
        for got, expected in zip(ours(), want, strict=True):
            if not torch.equal(got.cpu(), expected):
                raise AssertionError("the device and the CPU decide differently")

    yield Pair("softmax path", ours, theirs, check)
    if installed("flashinfer"):
        from flashinfer.sampling import top_p_sampling_from_probs

        yield Pair(
            "flashinfer top-p sampling",
            ours,
            lambda: top_p_sampling_from_probs(torch.softmax(logits.float() / 0.8, dim=-1), 0.95),
            check,
        )


def copy_bandwidth() -> float:
    """Bytes a second that a copy of 1 GiB reads and writes: what attention is set against."""
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    seconds(lambda: b.copy_(a), 3)
    return 2 * a.numel() / seconds(lambda: b.copy_(a), 20)


def launch_seconds(heads: Heads) -> float:
    """Wall time of an eager attention call over 32 keys, as the host sees it: nothing is waited for."""
    chunks, plan = siblings_plan(32, 1, heads, "cuda")
    q = torch.randn(1, heads.query, heads.dim, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(q)
    best = math.inf
    for _ in range(50):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(20):
            ops.tree_attention(q, chunks, plan, layer=0, num_kv_heads=heads.key, out=out)
        best = min(best, (time.perf_counter() - begin) / 20)
    return best


def decoders(model: Any, device: str, num_tokens: int) -> dict[str, Callable[[], list[int]]]:
    """Greedy decoding of one prompt: transformers, hornbeam eager, hornbeam captured."""
    import hornbeam as hb

    prompt = torch.randint(1, 200, (1, 64), generator=torch.Generator().manual_seed(0)).to(device)
    eager = hb.LM(model)
    captured = hb.LM(model, cuda_graphs=True)

    def theirs() -> list[int]:
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=num_tokens,
            eos_token_id=None,
        )
        return out[0, prompt.shape[1] :].tolist()

    def hornbeam(lm: Any) -> Callable[[], list[int]]:
        options = {"max_new_tokens": num_tokens, "draft": None, "eos_token_id": ()}
        return lambda: lm.generate(prompt[0].tolist(), **options).token_ids

    return {"transformers": theirs, "hornbeam": hornbeam(eager), "hornbeam captured": hornbeam(captured)}


def decoding(num_tokens: int) -> dict[str, Any]:
    """Seconds of a whole decode of the default model in float32: their time over ours."""
    from hornbeam.model import loading

    model, _ = loading.load(loading.resolve("smollm2"), dtype=torch.float32, device="cuda")
    calls = decoders(model, "cuda", num_tokens)
    texts = {name: call() for name, call in calls.items()}
    report: dict[str, Any] = {
        "tokens alike with transformers": sum(
            a == b for a, b in zip(texts["hornbeam"], texts["transformers"], strict=True)
        ),
        "captured says what eager says": texts["hornbeam captured"] == texts["hornbeam"],
    }
    series = harness.alternate({name: ignoring(call) for name, call in calls.items()})
    for name in ("hornbeam", "hornbeam captured"):
        report[f"{name} against transformers"] = harness.ratio(series[name], series["transformers"])
    return report


def check() -> list[str]:
    """The correctness checks of all pairs on small shapes, on whatever runs the kernels; their names."""
    device = "cuda" if cuda.status()["available"] else "cpu"
    small = Heads(query=8, key=2, dim=64)
    pairs = [
        *attention_pairs(200, 1, small, device, compiled=False),
        *attention_pairs(100, 8, small, device, compiled=False),
        *verification_pairs(3, 2, 700, device),
    ]
    for pair in pairs:
        pair.check()
    return [pair.name for pair in pairs]


def run(quick: bool) -> dict[str, Any]:
    """All measurements, or the reason for which there are none."""
    status = cuda.status()
    if not status["available"]:
        return {"skipped": status["reason"]}
    heads = Heads()
    report: dict[str, Any] = {"device": status["devices"][0], "copy bytes a second": copy_bandwidth()}
    if absent := absent_peers():
        report["peers that are not installed"] = absent
        print("left out, because they are not installed:", ", ".join(absent), flush=True)
    for num_keys in (4096,) if quick else (4096, 32_768, 131_072):
        for num_rows in (1, 8):
            pairs = attention_pairs(num_keys, num_rows, heads, "cuda")
            ratios: dict[str, Any] = {pair.name: compare(pair) for pair in pairs}
            read = 2 * heads.key * (num_keys + num_rows) * heads.dim * 2
            share = read / ratios["sdpa folded"].ours_seconds / report["copy bytes a second"]
            ratios["bytes a second over those of a copy"] = share
            report[f"attention, {num_rows} rows over {num_keys} keys"] = ratios
    batch = 4 if quick else 64
    pairs = verification_pairs(batch, 8, 151_936, "cuda")
    report[f"verify, {batch} chains of 8, 151936 tokens"] = {p.name: compare(p, repeats=3) for p in pairs}
    report["attention launch, seconds"] = launch_seconds(heads)
    report["decoding"] = decoding(32 if quick else 256)
    return report


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The CUDA lane against PyTorch's kernels.")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller shapes")
    parser.add_argument("--check", action="store_true", help="check for equality, measure nothing")
    return parser.parse_args(words)


def main(words: list[str]) -> None:
    chosen = arguments(words)
    status = cuda.status()
    if not status["available"]:
        sys.exit(f"nothing measured: {status['reason']}")
    if chosen.check:
        print("equal: " + ", ".join(check()))
        return
    card = re.sub(r"[^a-z0-9]+", "-", status["devices"][0].rsplit(" (", 1)[0].lower()).strip("-")
    command = " ".join(["python -m hornbeam.bench.bench_cuda", *words])
    print(harness.write("cuda", run(chosen.quick), command, harness.RESULTS / f"{card}.json"))


if __name__ == "__main__":
    main(sys.argv[1:])
