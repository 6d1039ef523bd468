"""What a step of decoding costs outside of the model.

A stub takes the model's place: 30 layers that call attention on numbers made beforehand, and compute nothing
else. Rows ``batch_1`` and ``batch_8`` are the seconds of a step of plain decoding over it, and how many
times as fast as another checkout's: each is timed in a process of its own, in turn.

Row ``notice`` is what seeing that the default model changed costs: before each pass, as a share of a step of
plain decoding, and before each call, in milliseconds.

    hornbeam bench step_overhead [--quick]
    HORNBEAM_BENCH_AGAINST=/path/to/checkout hornbeam bench step_overhead
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from hornbeam.bench import harness
from hornbeam.bench.builds import Worker, packages

WORKER = Path(__file__).parent / "step_overhead_worker.py"


def run(quick: bool, only: list[str] | None = None) -> dict[str, Any]:
    rows = only or ["batch_1", "batch_8", "notice"]
    results: dict[str, Any] = {}
    for row in rows:
        results[row] = notice(quick) if row == "notice" else steps(int(row.removeprefix("batch_")), quick)
        print(row, results[row], flush=True)
    return results


def steps(batch: int, quick: bool) -> dict[str, Any]:
    """Seconds of a step, and beside another checkout."""
    workers = {name: Worker(WORKER, folder, str(batch)) for name, folder in packages().items()}
    try:
        calls = {name: worker.run for name, worker in workers.items()}
        seconds = harness.alternate(calls, 5 if quick else 15, warm_up=2)
    finally:
        for worker in workers.values():
            worker.close()
    result: dict[str, Any] = {"step_seconds": statistics.median(seconds["ours"])}
    if "theirs" in seconds:
        result["times_as_fast"] = harness.ratio(seconds["ours"], seconds["theirs"])
    return result


def notice(quick: bool) -> dict[str, Any]:
    """What looking costs on the default model."""
    import hornbeam as hb

    lm = hb.LM.from_pretrained("smollm2")
    prompt = list(range(100, 400))
    stamps: list[float] = []
    passes: list[float] = []
    calls: list[float] = []
    paces: list[float] = []
    for _ in range(3 if quick else 9):
        stamps.clear()
        lm.generate(
            prompt,
            max_new_tokens=12,
            draft=None,
            eos_token_id=[],
            stream=lambda *_: stamps.append(time.perf_counter()),
        )
        paces.append((stamps[-1] - stamps[0]) / (len(stamps) - 1))
        # As in decoding, other work has filled the caches.
        for seconds, closely in ((passes, False), (calls, True)):
            lm.score(prompt, [[1, 2]])
            begin = time.perf_counter()
            lm.runner.look(closely=closely)
            seconds.append(time.perf_counter() - begin)
    step = statistics.median(paces)
    return {
        "share_of_a_step": statistics.median(passes) / step,
        "pass_microseconds": statistics.median(passes) * 1e6,
        "call_milliseconds": statistics.median(calls) * 1e3,
        "step_milliseconds": step * 1e3,
    }
