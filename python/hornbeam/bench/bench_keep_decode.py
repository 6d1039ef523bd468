"""What keeping 12 % of a long prompt's keys buys, on the default model, on the CPU.

``overhead`` is the time of the reduction over that of the prefill, a run a recipe; ``bytes`` what pages
the branch holds afterwards over what it held before, and what the pool holds after its end was given
back; ``attention`` the attention of all layers for one row over our own without eviction; ``decode``
tokens a second over transformers with its full cache, plain greedy steps on both sides; ``decode_kvpress``
the same over kvpress at the same share, with its head-wise press and with its plain one, in a process and an
environment of its own (:mod:`kvpress_peer`).

    hornbeam bench keep_decode [--quick]

``--quick`` takes 2,048 tokens of prompt in place of 7,900.
"""

from __future__ import annotations

import time
from typing import Any

import torch

import hornbeam as hb
from hornbeam import ops
from hornbeam.bench import driving, harness
from hornbeam.bench.kvpress_peer import Peer
from hornbeam.bench.workload import sources
from hornbeam.engine.request import Request
from hornbeam.model import loading

RECIPES = ("ada_kv", "snap_kv", "pyramid_kv")
BUDGET = "12%"
KEEP = 0.12
PRESSES = ("ada_kv", "snap_kv")
STEPS = 4


def run(quick: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    folder = loading.resolve("smollm2")
    model, tokenizer = loading.load(folder, dtype=torch.float32)
    length, alternations = (2048, 3) if quick else (7900, harness.ALTERNATIONS)
    prompt = text(tokenizer, length)
    results: dict[str, Any] = {"prompt_tokens": length, "budget": BUDGET, "recipes": {}}
    kept_lm = hb.LM(model, tokenizer)
    for name in reversed(RECIPES):
        kept_lm.clear_cache()
        kept = driving.opened(kept_lm, prompt, getattr(hb.recipes, name)(BUDGET))
        full_bytes = kept.stats.kv_bytes_before
        results["recipes"][name] = {
            "overhead": kept.stats.seconds["keep"] / kept.stats.seconds["prefill"],
            "keep_seconds": kept.stats.seconds["keep"],
            "bytes": kept.stats.kv_bytes / full_bytes,
            "pool_bytes": kept_lm.tree.num_bytes / full_bytes,
        }
        print(name, results["recipes"][name], flush=True)
        if name != RECIPES[0]:
            kept.cancel()
    full_lm = hb.LM(model, tokenizer)
    full = driving.opened(full_lm, prompt)
    seconds = harness.alternate(
        {"kept": lambda: attention(kept_lm, kept), "full": lambda: attention(full_lm, full)}, alternations
    )
    results["attention"] = harness.ratio(seconds["kept"], seconds["full"])
    print("attention", results["attention"], flush=True)
    full.cancel()
    full_lm.clear_cache()
    cache, token = theirs(model, prompt)
    seconds = harness.alternate(
        {
            "ours": lambda: decode(kept),
            "theirs": lambda: plain(model, cache, token, length),
        },
        alternations,
    )
    results["decode"] = harness.ratio(seconds["ours"], seconds["theirs"])
    print("decode", results["decode"], flush=True)
    results["decode_kvpress"] = {}
    with Peer(folder, torch.get_num_threads()) as peer:
        for press in PRESSES:
            peer.call("prefill", context=prompt, press=press, keep=KEEP)
            seconds = harness.alternate(
                {
                    "ours": lambda: decode(kept),
                    "theirs": lambda: peer.call("steps", token=token, count=STEPS),
                },
                alternations,
            )
            results["decode_kvpress"][press] = harness.ratio(seconds["ours"], seconds["theirs"])
            print("decode over kvpress", press, results["decode_kvpress"][press], flush=True)
        results["peer"] = peer.versions
    kept.close()
    return results


def text(tokenizer: Any, length: int) -> list[int]:
    """The first tokens of this project's own sources."""
    ids: list[int] = tokenizer("\n\n".join(sources()))["input_ids"][:length]
    assert len(ids) == length
    return ids


def attention(lm: hb.LM, sequence: Request) -> float:
    """Seconds of attention of one row in all layers, with the model's own queries."""
    queries: list[torch.Tensor] = []
    with lm.tree.step([(sequence.branch, [sequence.pending], None)]) as step:
        lm.runner.forward(
            lm.tree,
            step,
            observer=lambda module, layer, query, options: queries.append(query.transpose(0, 1)),
        )
        out = torch.empty_like(queries[0], memory_format=torch.contiguous_format)
        heads = lm.runner.shape.num_kv_heads
        begin = time.perf_counter()
        for _ in range(3):
            for layer, query in enumerate(queries):
                ops.tree_attention(query, lm.tree.chunks, step.plan, layer=layer, num_kv_heads=heads, out=out)
        return (time.perf_counter() - begin) / 3


def decode(request: Request) -> float:
    """Seconds of a few plain steps, a token each."""
    begin = time.perf_counter()
    driving.step(request, STEPS)
    return time.perf_counter() - begin


@torch.inference_mode()
def theirs(model: Any, prompt: list[int]) -> tuple[Any, int]:
    from transformers import DynamicCache

    cache = DynamicCache()
    logits = model(torch.tensor([prompt]), past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    return cache, int(logits[0, -1].argmax())


@torch.inference_mode()
def plain(model: Any, cache: Any, token: int, length: int) -> float:
    """The same of transformers over its full cache, which is cut back afterwards, untimed."""
    begin = time.perf_counter()
    for _ in range(STEPS):
        logits = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True).logits
        token = int(logits[0, -1].argmax())
    spent = time.perf_counter() - begin
    cache.crop(length - cache.get_seq_length())
    return spent
