"""Whole calls on the default model against another checkout's build, to see that a change costs no speed.

Each row is how many times as fast this build is, with the texts of both compared: ``generate`` decodes
eight chats in one call and after a prompt of 1,000 tokens, without drafts; ``spec_generate`` four chats and
the file of ``make demo``, one at a time, with the default draft; ``keep_decode`` reads 1,500 tokens, keeps
12 % of them and writes 64. Each build runs in a process of its own, and they are timed in turn.

    HORNBEAM_BENCH_AGAINST=/path/to/checkout hornbeam bench builds [--quick] [--only ROW ...]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hornbeam.bench import harness
from hornbeam.bench.builds import AGAINST, Worker, packages
from hornbeam.bench.workload import PROMPTS

WORKER = Path(__file__).parent / "build_worker.py"
ROWS = ("generate", "spec_generate", "keep_decode")


def run(quick: bool, only: list[str] | None = None) -> dict[str, Any]:
    """All rows, or those that ``only`` names."""
    if len(packages()) < 2:
        return {"skipped": f"{AGAINST} names no other checkout"}
    return harness.run_rows({row: partial(compared, row, quick) for row in ROWS}, only)


def compared(row: str, quick: bool) -> dict[str, Any]:
    """One row."""
    workers = {name: Worker(WORKER, folder, row, str(PROMPTS)) for name, folder in packages().items()}
    digests: dict[str, set[str]] = {name: set() for name in workers}

    def timed(name: str) -> Callable[[], float]:
        def call() -> float:
            seconds, digest = workers[name].run()
            digests[name].add(digest)
            return float(seconds)

        return call

    try:
        seconds = harness.alternate({name: timed(name) for name in workers}, 3 if quick else 15)
    finally:
        for worker in workers.values():
            worker.close()
    return {
        "identical": digests["ours"] == digests["theirs"] and len(digests["ours"]) == 1,
        "times_as_fast": harness.ratio(seconds["ours"], seconds["theirs"]),
    }
