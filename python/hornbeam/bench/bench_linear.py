"""The linear layer for few rows against ``torch.nn.functional.linear``, with weights that no cache holds.

Each call walks through more than 100 MB of distinct weights. Both sides are first held to the same
results. A ratio says how many times as fast ours is; ``gb_per_s`` is how fast it reads weights.

    hornbeam bench linear [--quick]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hornbeam import ops
from hornbeam.bench import harness

# (outputs, inputs): the layers of SmolLM2-135M, then two of an 8B and the head of a 1B model.
SHAPES = [(576, 576), (192, 576), (1536, 576), (576, 1536), (49152, 576)]
LARGE_SHAPES = [(4096, 4096), (14336, 4096), (128256, 2048)]
ROWS = [1, 2, 4, 8, 16, 32, 64]
COLD_BYTES = 100 << 20


def measure(
    outputs: int, inputs: int, rows: list[int], dtype: torch.dtype, alternations: int
) -> dict[str, Any]:
    """The ratio for every number of rows."""
    size = outputs * inputs * dtype.itemsize
    weights = [torch.randn(outputs, inputs).to(dtype) for _ in range(max(1, -(-COLD_BYTES // size)))]
    results = {}
    for num_rows in rows:
        x = torch.randn(num_rows, inputs).to(dtype)
        check(x, weights[0])
        seconds = harness.alternate(
            {
                "ours": partial(walk, partial(ops.linear, x), weights),
                "theirs": partial(walk, partial(torch.nn.functional.linear, x), weights),
            },
            alternations,
        )
        ratio = harness.ratio(seconds["ours"], seconds["theirs"])
        gb_per_s = size * len(weights) / ratio.ours_seconds / 1e9
        results[f"{num_rows} rows"] = {"calls": len(weights), "ratio": ratio, "gb_per_s": gb_per_s}
    return results


def check(x: Tensor, weight: Tensor) -> None:
    """Both sides are as near to the exact product as the dtype lets them be."""
    exact = x.double() @ weight.double().T
    bound = 4 * torch.finfo(x.dtype).eps * exact.abs().max() + 1e-6 * x.shape[-1]
    for side in (ops.linear(x, weight), torch.nn.functional.linear(x, weight)):
        error = (side.double() - exact).abs().max()
        if not error <= bound:
            raise SystemExit(f"a linear layer is off by {error}, expected at most {bound}")


def walk(call: Callable[[Tensor], Tensor], weights: list[Tensor]) -> None:
    for weight in weights:
        call(weight)


def run(quick: bool = False) -> dict[str, Any]:
    """All measurements; ``quick`` takes two shapes, four numbers of rows and float32, less often."""
    shapes = [(1536, 576), (49152, 576)] if quick else SHAPES + LARGE_SHAPES
    rows = [1, 4, 16, 64] if quick else ROWS
    dtypes = [torch.float32] if quick else [torch.float32, torch.bfloat16]
    torch.manual_seed(0)
    results: dict[str, Any] = {"threads": torch.get_num_threads()}
    with torch.inference_mode():
        for dtype, (outputs, inputs) in itertools.product(dtypes, shapes):
            name = f"{outputs} x {inputs} {str(dtype).removeprefix('torch.')}"
            alternations = 3 if quick else harness.ALTERNATIONS
            results[name] = measure(outputs, inputs, rows, dtype, alternations)
            print(
                name, {rows: round(row["ratio"].median, 2) for rows, row in results[name].items()}, flush=True
            )
    return results
