"""What a call of an operation costs, directly and as ``torch.ops.hornbeam``, where there is next to no work.

Inputs are as small as they can be and outputs are the caller's, so that a call is all overhead. Both ways are
first held to the same answers. ``direct`` calls ``hornbeam.ops``, ``registered`` the operation that torch
knows (``torch.ops.hornbeam.NAME.default``), both under ``torch.inference_mode``. In microseconds a call.

    hornbeam bench ops_overhead [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hornbeam import ops
from hornbeam._native import Plan
from hornbeam.bench import harness

__all__ = ["run"]

CALLS = 20_000


def one_row() -> Plan:
    """A plan of one row that reads itself."""

    def table(*rows: list[int], width: int | None = None) -> np.ndarray:
        flat = np.array(rows, np.int32)
        return flat.reshape(-1, width) if width else flat.reshape(-1)

    return Plan(
        entries=table([0, 1 << 16, 0, -1], width=4),
        positions=table(),
        head_ranges=table(width=2),
        reads=table([0, 1, 0, 1, 1, 1, -1, 0], width=8),
        row_positions=table([0]),
        row_end=table([1]),
        row_slots=table([0, 0], width=2),
    )


def calls() -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Of each operation the direct call and the registered one; both give what they wrote."""
    registered = torch.ops.hornbeam
    plan = one_row()
    words = ops.plan_words(plan)
    chunks = [torch.zeros(1, 1, 2, 1, 8)]
    key = torch.randn(1, 1, 8)
    out, scores = torch.empty(1, 1, 8), torch.randn(1, 8)
    weight, product = torch.randn(4, 8), torch.empty(1, 4)
    pair = torch.empty(1, 1), torch.empty(1, 1, dtype=torch.int64)
    where: dict[str, Any] = {"layer": 0, "num_kv_heads": 1}
    write, attend = registered.write_rows.default, registered.tree_attention_out.default
    multiply, choose = registered.linear_out.default, registered.topk_out.default

    def writing() -> Any:
        write(key, key, chunks, words, 0, 1)
        return chunks[0]

    def attending() -> Any:
        attend(key, chunks, words, 0, 1, out=out)
        return out

    def multiplying() -> Any:
        multiply(scores, weight, out=product)
        return product

    def choosing() -> Any:
        choose(scores, 1, values=pair[0], indices=pair[1])
        return pair[0]

    def written() -> Any:
        ops.write_rows(key, key, chunks, plan, **where)
        return chunks[0]

    return {
        "linear": (lambda: ops.linear(scores, weight, None, product), multiplying),
        "topk": (lambda: ops.topk(scores, 1, out=pair)[0], choosing),
        "write_rows": (written, writing),
        "tree_attention": (lambda: ops.tree_attention(key, chunks, plan, out=out, **where), attending),
    }


def _seconds(call: Callable[[], Any], count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - begin


def row(direct: Callable[[], Any], registered: Callable[[], Any], quick: bool) -> dict[str, Any]:
    """Microseconds of both, after a check that they give the same."""
    expected = direct().clone()
    if not torch.equal(registered(), expected):
        raise SystemExit("the registered operation gives something else than the direct call")
    count = CALLS // 10 if quick else CALLS
    timed = harness.alternate(
        {"direct": lambda: _seconds(direct, count), "registered": lambda: _seconds(registered, count)},
        3 if quick else harness.ALTERNATIONS,
    )
    ratio = harness.ratio(ours=timed["registered"], theirs=timed["direct"])
    return {
        "direct_us": ratio.theirs_seconds / count * 1e6,
        "registered_us": ratio.ours_seconds / count * 1e6,
        "direct_over_registered": ratio,
    }


def run(quick: bool = False) -> dict[str, Any]:
    """All operations; ``quick`` takes fewer calls."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            results = {}
            for name, (direct, registered) in calls().items():
                results[name] = row(direct, registered, quick)
                found = results[name]
                print(f"{name}: {found['direct_us']:.2f} us direct, {found['registered_us']:.2f} registered")
            return results
    finally:
        torch.set_num_threads(threads)
