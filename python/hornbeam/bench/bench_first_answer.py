"""The first answer of a fresh process, beside transformers' own ``generate``: nothing is measured before it.

Each side is a process of its own, in turn: it imports, loads the default model in float32, and continues one
prompt by 50 tokens. Both give the same tokens. Row ``no_profile`` begins with an empty cache folder,
``profile`` with what earlier processes have learned. ``call`` is the call of ``generate`` alone, ``process``
the time from the start of the process to the end of the answer; a ratio says how many times as fast ours is.
Row ``import`` is what ``import hornbeam`` takes in a process that has imported torch, in milliseconds.

    hornbeam bench first_answer [--quick]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hornbeam.bench import harness
from hornbeam.machine import kept
from hornbeam.model import loading

WORKER = Path(__file__).parent / "first_answer_worker.py"
#: Processes that learn before the row ``profile`` is measured.
EARLIER = 3
IMPORT = """
import sys, time
import torch
begin = time.perf_counter()
import hornbeam
print(time.perf_counter() - begin, "transformers" in sys.modules)
"""


def run(quick: bool = False, only: list[str] | None = None) -> dict[str, Any]:
    """All rows, or those that ``only`` names."""
    model = loading.resolve("smollm2")
    rounds = 2 if quick else harness.ALTERNATIONS
    rows: dict[str, Callable[[], Any]] = {
        "import": lambda: importing(rounds),
        "no_profile": lambda: row(model, rounds, earlier=0),
        "profile": lambda: row(model, rounds, earlier=1 if quick else EARLIER),
    }
    return harness.run_rows(rows, only)


def importing(rounds: int) -> dict[str, Any]:
    """What the import takes beyond torch's own, and that it brings no transformers along."""
    own = {**os.environ, "PYTHONPATH": str(harness.PACKAGES)}
    taken: list[float] = []
    # The first reads files that later ones find in memory.
    for _ in range(rounds + 1):
        command = [sys.executable, "-c", IMPORT]
        seconds, has_transformers = subprocess.check_output(command, env=own, text=True).split()
        if has_transformers != "False":
            raise SystemExit("import hornbeam has imported transformers")
        taken.append(1e3 * float(seconds))
    values = sorted(taken[1:])
    return {
        "milliseconds": statistics.median(values),
        "interval": harness.interval(values),
        "processes": len(values),
    }


def row(model: Path, rounds: int, earlier: int) -> dict[str, Any]:
    """What the first call takes, and the whole process."""
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(earlier):
            answer("ours", model, Path(folder))
        taken: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
        # The first round of all reads files that later ones find in memory.
        for number in range(rounds + 1):
            for side, answers in taken.items():
                with tempfile.TemporaryDirectory() as empty:
                    found = answer(side, model, Path(folder if earlier else empty))
                if number > 0:
                    answers.append(found)
    tokens = {tuple(one["tokens"]) for answers in taken.values() for one in answers}
    if len(tokens) != 1:
        raise SystemExit(f"the sides give {len(tokens)} different answers, expected the same")
    ours, theirs = taken["ours"], taken["theirs"]
    return {
        name: harness.ratio([one[name] for one in ours], [one[name] for one in theirs])
        for name in ("call", "process")
    }


def answer(side: str, model: Path, cache: Path) -> dict[str, Any]:
    """What a fresh process says of its answer."""
    own = {"PYTHONPATH": str(harness.PACKAGES), "HORNBEAM_CACHE": str(cache), kept.VARIABLE: "on"}
    command = [sys.executable, str(WORKER), side, str(model), str(time.time())]
    done = subprocess.run(command, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
