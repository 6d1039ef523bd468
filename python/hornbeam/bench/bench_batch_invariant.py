"""What ``batch_invariant=True`` costs: passes, prompts and decoding over those of the default mode.

The default model in float32 and in bfloat16. ``over_default`` is how many times as long it takes; the kernels
of the default mode are those that hold where nothing was measured. Before anything is timed, the logits of a
row alone are held to those beside others, bit by bit in this mode, and both modes to each other to rounding.

    hornbeam bench batch_invariant [--quick] [--only float32]
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch

import hornbeam as hb
from hornbeam.bench import harness
from hornbeam.bench.bench_pass import seconds_of
from hornbeam.model import loading

ROWS = [1, 2, 4, 8, 16, 32, 64, 128]
PROMPTS = [512, 2048]
CONTEXTS = [50, 2000, 7900]
DECODED = 16


def run(quick: bool = False, only: list[str] | None = None) -> dict[str, Any]:
    """Every type, or those that ``only`` names."""
    rows = {name: partial(of_type, getattr(torch, name), quick) for name in ("float32", "bfloat16")}
    return harness.run_rows(rows, only or (["float32"] if quick else None))


def of_type(dtype: torch.dtype, quick: bool) -> dict[str, Any]:
    """Seconds of both modes and the ratio: passes without a prefix, prompts, and decoded tokens."""
    model, tokenizer = loading.load(loading.resolve("smollm2"), dtype=dtype)
    sides = {
        "default": hb.LM(model, tokenizer, profile="off"),
        "batch_invariant": hb.LM(model, tokenizer, profile="off", batch_invariant=True),
    }
    check(sides, dtype)
    results: dict[str, Any] = {}
    for rows in [1, 8] if quick else ROWS:
        results[f"pass of {rows} rows"] = compared(sides, partial(seconds_of, rows=rows), quick)
    for length in [512] if quick else PROMPTS:
        results[f"prompt of {length}"] = compared(sides, partial(_prompt, length=length), quick)
    for length in [50] if quick else CONTEXTS:
        results[f"token after {length}"] = compared(sides, partial(_decoded, length=length), quick)
    return results


def compared(sides: dict[str, hb.LM], timed: Any, quick: bool) -> dict[str, Any]:
    """One thing on both sides in turn."""
    calls = {name: partial(timed, lm) for name, lm in sides.items()}
    seconds = harness.alternate(calls, 3 if quick else harness.ALTERNATIONS)
    # The ratio of the harness has the sides in the other order.
    return {"over_default": harness.ratio(seconds["default"], seconds["batch_invariant"])}


def _text(length: int) -> list[int]:
    """Token ids, any."""
    return [100 + 7 * i % 20_000 for i in range(length)]


def _prompt(lm: hb.LM, length: int) -> float:
    lm.clear_cache()
    begin = time.perf_counter()
    lm.generate(_text(length), max_new_tokens=1, draft=None)
    return time.perf_counter() - begin


def _decoded(lm: hb.LM, length: int) -> float:
    """Seconds a token, after a prompt that the cache has."""
    options: dict[str, Any] = {"draft": None, "eos_token_id": [], "defaults": "none"}
    lm.generate(_text(length), max_new_tokens=1, **options)
    begin = time.perf_counter()
    found = lm.generate(_text(length), max_new_tokens=DECODED, **options)
    return (time.perf_counter() - begin) / len(found.token_ids)


def check(sides: dict[str, hb.LM], dtype: torch.dtype) -> None:
    """The mode keeps its promise, and both modes mean the same."""
    texts = [_text(40), _text(90)[30:], _text(200)]
    one = sides["batch_invariant"]

    def scores(lm: hb.LM, together: bool) -> list[tuple[float, ...]]:
        lm.clear_cache()
        rest = [[[5, 6, 7]]] * len(texts)
        found = lm.score(texts, rest) if together else [lm.score(text, [[5, 6, 7]]) for text in texts]
        return [tuple(likelihood.token_logprobs) for [likelihood] in found]

    alone = scores(one, together=False)
    if scores(one, together=True) != alone:
        raise SystemExit("with batch_invariant=True texts have other bits beside each other")
    bound = 1e-3 if dtype == torch.float32 else 0.5
    usual = torch.tensor(scores(sides["default"], together=True))
    if not torch.allclose(usual, torch.tensor(alone), atol=bound):
        raise SystemExit(f"both modes differ by more than {bound}")
