"""A forward pass with the kernels that were measured, over the better of ours alone and torch's alone.

The default model in float32 and in bfloat16. The kernels are compared first, as ``hornbeam info --measure``
does it; then passes of 1 to 128 rows are timed in turn: with the measured choice, with our linear layers
alone, and with torch's alone. The three give the same up to rounding. ``over_better`` says how many times as
long the
measured choice takes as the better of the two others: 1 is as good, less is better.

    hornbeam bench pass [--quick] [--only float32]
"""

from __future__ import annotations

import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

import hornbeam as hb
from hornbeam.bench import harness
from hornbeam.engine.measuring import pass_seconds
from hornbeam.machine.rows import LAST_ROWS
from hornbeam.model import loading
from hornbeam.model.linear import KERNELS

ROWS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]


def run(quick: bool = False, only: list[str] | None = None) -> dict[str, Any]:
    """Every type, or those that ``only`` names."""
    rows = {name: partial(passes, getattr(torch, name), quick) for name in ("float32", "bfloat16")}
    return harness.run_rows(rows, only or (["float32"] if quick else None))


def passes(dtype: torch.dtype, quick: bool) -> dict[str, Any]:
    """For each number of rows the seconds of the three, and the ratio."""
    model, tokenizer = loading.load(loading.resolve("smollm2"), dtype=dtype)
    learning = hb.LM(model, tokenizer, profile=hb.Profile())
    learning.calibrate(kernels=True)
    sides = {name: hb.LM(model, tokenizer, profile=uniform(learning, name)) for name in KERNELS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "profile.json")
        assert learning.engine.profile is not None
        learning.engine.profile.save(file)
        sides["measured"] = hb.LM(model, tokenizer, profile=file)
    check(sides, dtype)
    results: dict[str, Any] = {}
    for rows in [1, 8, 64] if quick else ROWS:
        calls = {name: partial(seconds_of, lm, rows) for name, lm in sides.items()}
        seconds = harness.alternate(calls, 3 if quick else 2 * harness.ALTERNATIONS + 1)
        better = min(KERNELS, key=lambda name: statistics.median(seconds[name]))
        results[f"{rows} rows"] = {
            "better": better,
            "seconds": {name: statistics.median(taken) for name, taken in seconds.items()},
            # The ratio of the harness has the sides in the other order.
            "over_better": harness.ratio(seconds[better], seconds["measured"]),
        }
    return results


def uniform(lm: hb.LM, kernel: str) -> hb.Profile:
    """One kernel for all linear layers, whatever their rows; the rest as nobody had measured it."""
    profile = hb.Profile(learns=False)
    for operation in lm.runner.switch.operations:
        for bucket in range(len(LAST_ROWS) + 1):
            profile.choose(operation, bucket, kernel)
    return profile


def seconds_of(lm: hb.LM, rows: int) -> float:
    found = pass_seconds(lm.engine, rows)
    assert found is not None, "the page pool has room for a pass"
    return found


def check(sides: dict[str, hb.LM], dtype: torch.dtype) -> None:
    """All sides give the same, as nearly as the type lets them."""
    prompt = list(range(100, 140))
    found = [
        torch.tensor([score.token_logprobs for score in lm.score(prompt, [[5, 6], [7]])[:1]])
        for lm in sides.values()
    ]
    bound = 1e-3 if dtype == torch.float32 else 0.5
    if any(not torch.allclose(other, found[0], atol=bound) for other in found):
        raise SystemExit(f"the sides differ by more than {bound}")
