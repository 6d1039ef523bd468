"""From raw logits to integer weights, by sorting: what :class:`hornbeam.Warp` promises, in plain numpy."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

F32 = np.float32
UNIT = 2**40


def fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c in float32 with one rounding: the double-precision sum is rounded to odd first."""
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    c = np.broadcast_to(np.asarray(c, np.float64), product.shape)
    total = product + c
    back = total - product
    error = (product - (total - back)) + (c - back)
    even = (total.view(np.int64) & 1) == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    return np.where((error != 0) & even, np.nextafter(total, towards), total).astype(F32)


def exp(x: Any) -> Any:
    """The exp of rust/core/src/simd/math.rs for x <= 0, step by step."""
    x = np.asarray(x, F32)
    flushed = ~(x >= F32(-87.33654))
    x = np.where(flushed, F32(0), x)
    rounder = F32(12582912.0)
    n = fma(x, F32(1.44269504), rounder) - rounder
    r = fma(n, F32(-0.693359375), x)
    r = fma(n, F32(2.1219444e-4), r)
    q = np.full_like(x, F32(0.001381454))
    for c in (0.008368745, 0.04166839, 0.16666521, 0.49999994):
        q = fma(q, r, F32(c))
    p = fma(q, r * r, r) + F32(1)
    return np.where(flushed, F32(0), np.ldexp(p, n.astype(np.int32)).astype(F32))


def penalised(logits: Any, warp: Any, prompt: Sequence[int] = (), output: Sequence[int] = ()) -> Any:
    """Bias, then repetition, frequency and presence penalties, in float32."""
    row = np.array(logits, F32)
    for token, bias in (warp.bias or {}).items():
        if token < len(row):
            row[token] += F32(bias)
    for token in {*prompt, *output}:
        if token >= len(row):
            continue
        if warp.repetition_penalty is not None:
            penalty = F32(warp.repetition_penalty)
            row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
        count = list(output).count(token)
        if count and warp.frequency_penalty is not None:
            row[token] -= F32(warp.frequency_penalty) * F32(count)
        if count and warp.presence_penalty is not None:
            row[token] -= F32(warp.presence_penalty)
    return row


def weights(logits: Any, warp: Any, prompt: Sequence[int] = (), output: Sequence[int] = ()) -> list[int]:
    """The weight of each token of the vocabulary after warping."""
    row = penalised(logits, warp, prompt, output)
    size = len(row)
    if warp.temperature == 0:
        return [UNIT if token == int(row.argmax()) else 0 for token in range(size)]
    with np.errstate(under="ignore", over="ignore"):
        z = (row - row.max()) * F32(1.0 / warp.temperature)
    w = [int(x) for x in np.floor(exp(z).astype(np.float64) * UNIT)]
    if warp.top_k is not None:
        order = sorted(range(size), key=lambda v: (-row[v], v))
        for v in order[warp.top_k :]:
            w[v] = 0
    if warp.top_p is not None and warp.top_p < 1:
        limit = int(np.ceil(np.float64(warp.top_p) * np.float64(sum(w))))
        before, full = 0, list(w)
        for v in sorted(range(size), key=lambda v: (-full[v], v)):
            if before >= limit:
                w[v] = 0
            before += full[v]
    if warp.min_p is not None:
        w = [x if x >= warp.min_p * UNIT else 0 for x in w]
    return w


def law(logits: Any, warp: Any, prompt: Sequence[int] = (), output: Sequence[int] = ()) -> list[Fraction]:
    """The probabilities, exactly."""
    w = weights(logits, warp, prompt, output)
    total = sum(w)
    return [Fraction(x, total) for x in w]
