"""What eviction costs in the course of decoding: token by token, and in blocks of a page.

Plain decoding on the default model with a budget of 256 tokens a head, of which every plane is full:
``blocks`` says how many times as fast the recipe's own part of a step (`seconds["keep"]`) is in blocks of 16
as token by token, ``share`` how much of the whole step it is in blocks.

    hornbeam bench keep_evict [--quick]

``--quick`` takes fewer alternations.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import hornbeam as hb
from hornbeam.bench import harness
from hornbeam.bench.bench_keep_decode import text
from hornbeam.bench.driving import opened, step
from hornbeam.engine.request import Request
from hornbeam.model import loading

RECIPES = ("streaming_llm", "h2o", "tova")
BUDGET, PROMPT, STEPS = 256, 512, 16


def run(quick: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    model, tokenizer = loading.load(loading.resolve("smollm2"), dtype=torch.float32)
    prompt = text(tokenizer, PROMPT)
    results: dict[str, Any] = {"prompt_tokens": PROMPT, "budget": BUDGET, "recipes": {}}
    for name in RECIPES:
        lm = hb.LM(model, tokenizer)
        make = getattr(hb.recipes, name)
        blocks, single = (opened(lm, prompt, make(BUDGET, every=every)) for every in (16, 1))
        seconds = harness.alternate(
            {"blocks": partial(spent, blocks), "single": partial(spent, single)},
            3 if quick else harness.ALTERNATIONS,
        )
        spans = blocks.stats.seconds
        whole = sum(time for phase, time in spans.items() if phase != "prefill")
        results["recipes"][name] = {
            "blocks": harness.ratio(seconds["blocks"], seconds["single"]),
            "share": spans["keep"] / whole,
        }
        print(name, results["recipes"][name], flush=True)
        for request in (blocks, single):
            request.cancel()
    return results


def spent(request: Request) -> float:
    """Seconds that the recipe takes in a block of steps."""
    before = request.stats.seconds["keep"]
    step(request, STEPS)
    return request.stats.seconds["keep"] - before
