"""Exact top-k of rows on one thread against ``torch.topk``, both without sorting.

Each case has rows of fresh random numbers at every call, so that no branch is learnt from the last one. Both
sides are first held to the same sets. ``8 rows`` is a call for the 8 kv heads of a layer; ``1 row`` shows
what a call costs beside the work. With a hint, a row is the last one with a little noise, and the hint is
what was the k-th greatest then.

    hornbeam bench attend_topk [--quick]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hornbeam import ops
from hornbeam.bench import harness

LENGTHS = (4096, 32768, 131072)
COUNTS = (64, 2048)
ROWS = (8, 1)
#: Calls of one alternation, on numbers of their own.
CALLS = 12
#: Noise of a step, beside numbers of deviation 1.
NOISE = 0.1


def measure(rows: int, n: int, k: int, alternations: int) -> dict[str, Any]:
    """Ratios of one case, without and with hints."""
    generator = torch.Generator().manual_seed(n + k + rows)

    def fresh() -> Iterator[tuple[Tensor, Tensor]]:
        """Rows, and hints from a step before."""
        for _ in range(CALLS):
            x = torch.randn(rows, n, generator=generator)
            before = (x + NOISE * torch.randn(rows, n, generator=generator)) / (1 + NOISE**2) ** 0.5
            yield x, before.topk(k).values[:, -1].clone()

    for x, hint in fresh():
        check(x, k, hint)
    # Both sides of an alternation see the same rows, the next alternation others.
    seconds: dict[str, list[float]] = {"ours": [], "hinted": [], "theirs": []}
    for _ in range(alternations + 1):
        cases = list(fresh())
        spent = {
            "ours": timed(cases, lambda x, _: ops.topk(x, k)),
            "hinted": timed(cases, lambda x, hint: ops.topk(x, k, hint=hint)),
            "theirs": timed(cases, lambda x, _: torch.topk(x, k, sorted=False)),
        }
        for name, value in spent.items():
            seconds[name].append(value)
    # The first alternation warms up.
    ours, hinted, theirs = (seconds[name][1:] for name in ("ours", "hinted", "theirs"))
    return {"ratio": harness.ratio(ours, theirs), "hinted": harness.ratio(hinted, theirs)}


def timed(cases: list[tuple[Tensor, Tensor]], call: Callable[[Tensor, Tensor], object]) -> float:
    """Seconds of a call, the median of all cases, which are read once before: scores were just made."""
    spent = []
    for x, hint in cases:
        x.amax()
        begin = time.perf_counter()
        call(x, hint)
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent)


def check(x: Tensor, k: int, hint: Tensor) -> None:
    """The same sets, of rows whose k-th greatest number has no equal."""
    want = torch.topk(x, k + 1) if k < x.shape[-1] else None
    for indices in (ops.topk(x, k)[1], ops.topk(x, k, hint=hint)[1]):
        theirs = torch.topk(x, k).indices.sort(dim=-1).values
        unique = slice(None) if want is None else want.values[:, k - 1] != want.values[:, k]
        if not torch.equal(indices[unique], theirs[unique]):
            raise SystemExit(f"sets of k {k} of n {x.shape[-1]} differ")


def run(quick: bool = False) -> dict[str, Any]:
    """All cases; ``quick`` takes fewer alternations."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"threads": 1}
    try:
        for rows in ROWS:
            cases: dict[str, dict[str, Any]] = {}
            for n in LENGTHS:
                for k in COUNTS:
                    cases[f"n {n}, k {k}"] = measure(rows, n, k, 3 if quick else 2 * harness.ALTERNATIONS)
            for kind in ("ratio", "hinted"):
                medians = [case[kind].median for name, case in cases.items() if name.startswith("n ")]
                cases[f"all, {kind}"] = {
                    "geometric_mean": harness.geometric_mean(medians),
                    "lowest": min(medians),
                }
            name = f"{rows} row{'s' if rows > 1 else ''}"
            results[name] = cases
            print(name, {case: shown(row) for case, row in cases.items()}, flush=True)
    finally:
        torch.set_num_threads(before)
    return results


def shown(row: dict[str, Any]) -> dict[str, float]:
    """Medians and means, rounded."""
    return {key: round(getattr(value, "median", value), 2) for key, value in row.items()}
