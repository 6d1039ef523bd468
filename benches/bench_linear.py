"""The weight-streaming linear layer against ``torch.nn.functional.linear``, with cold weights.

Each measurement walks through more than 100 MB of distinct weights, so that no cache helps, and
alternates between the two implementations; the best of several passes counts.

    python benches/run.py linear [--quick]
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch

from hornbeam import _native

# (outputs, inputs): the layers of SmolLM2-135M, then two of an 8B and the head of a 1B model.
SHAPES = [(576, 576), (192, 576), (1536, 576), (576, 1536), (49152, 576)]
LARGE_SHAPES = [(4096, 4096), (14336, 4096), (128256, 2048)]
ROWS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
COLD_BYTES = 100 << 20


def measure(
    outputs: int, inputs: int, rows: list[int], dtype: torch.dtype, passes: int
) -> list[dict[str, Any]]:
    """Seconds a call for both implementations, for every number of rows."""
    size = outputs * inputs * dtype.itemsize
    weights = [torch.randn(outputs, inputs).to(dtype) for _ in range(max(1, -(-COLD_BYTES // size)))]
    results = []
    for num_rows in rows:
        x = torch.randn(num_rows, inputs).to(dtype)
        out = torch.empty(num_rows, outputs, dtype=dtype)
        candidates: dict[str, Callable[[torch.Tensor], object]] = {
            "torch": lambda w, x=x: torch.nn.functional.linear(x, w),
            "native": lambda w, x=x, out=out: _native.linear(x, w, None, out),
        }
        best = dict.fromkeys(candidates, float("inf"))
        for _, (name, call) in itertools.product(range(passes), candidates.items()):
            start = time.perf_counter()
            for weight in weights:
                call(weight)
            best[name] = min(best[name], (time.perf_counter() - start) / len(weights))
        results.append(
            {
                "outputs": outputs,
                "inputs": inputs,
                "rows": num_rows,
                "dtype": str(dtype).removeprefix("torch."),
                "torch_us": best["torch"] * 1e6,
                "native_us": best["native"] * 1e6,
                "ratio": best["torch"] / best["native"],
                "native_gb_s": size / best["native"] / 1e9,
            }
        )
    return results


def run(quick: bool = False) -> dict[str, Any]:
    """All measurements; ``quick`` takes two shapes, four numbers of rows and fewer passes."""
    shapes = [(1536, 576), (49152, 576)] if quick else SHAPES + LARGE_SHAPES
    rows = [1, 4, 16, 64] if quick else ROWS
    dtypes = [torch.float32] if quick else [torch.float32, torch.bfloat16]
    measurements = []
    with torch.inference_mode():
        for dtype, (outputs, inputs) in itertools.product(dtypes, shapes):
            measurements += measure(outputs, inputs, rows, dtype, passes=3 if quick else 6)
    return {"threads": torch.get_num_threads(), "measurements": measurements}
