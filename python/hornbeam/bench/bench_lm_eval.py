"""A task of several choices under ``lm_eval``, over its own ``hf`` model at the best batch size.

Four answers of several tokens each behind five examples (:mod:`hornbeam.bench.evaluation_tasks`). Row
``first_n`` shows every question the same examples, ``default`` each its own, drawn by the harness. Both sides
are ``lm_eval.simple_evaluate`` from texts to figures on a loaded model, and give the same figures. Nothing is
kept from run to run. The other side's batch size is the fastest of some, found first.

    hornbeam bench lm_eval [--quick]
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import hornbeam as hb
from hornbeam.bench import harness
from hornbeam.bench.evaluation_tasks import choice
from hornbeam.model import loading

__all__ = ["run"]

DOCUMENTS = 16
BATCH_SIZES = (1, 4, 16)


def figures(model: Any, task: dict[str, Any]) -> dict[str, Any]:
    """What the harness finds."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    # Its own tasks, of which there are thousands, are not looked through.
    options = {
        "bootstrap_iters": 0,
        "verbosity": "ERROR",
        "task_manager": TaskManager(include_defaults=False),
    }
    found = lm_eval.simple_evaluate(model=model, tasks=[task], **options)
    results: dict[str, Any] = found["results"]
    return results


def fastest(calls: dict[int, Callable[[], Any]]) -> int:
    """The batch size that takes the least time, of one run each."""
    seconds = {}
    for size, call in calls.items():
        begin = time.perf_counter()
        call()
        seconds[size] = time.perf_counter() - begin
    return min(seconds, key=lambda size: seconds[size])


def row(model: Any, tokenizer: Any, sampler: str, quick: bool) -> dict[str, Any]:
    """Ours over theirs, after a check that the figures are the same."""
    from lm_eval.models.huggingface import HFLM

    from hornbeam.integrations.lm_eval import HornbeamLM

    task = choice(4 if quick else DOCUMENTS, sampler=sampler)
    lm = hb.LM(model, tokenizer)
    ours = HornbeamLM(lm)
    sizes = (4,) if quick else BATCH_SIZES
    theirs = {size: HFLM(model, tokenizer=tokenizer, batch_size=size, device="cpu") for size in sizes}

    def fresh() -> dict[str, Any]:
        lm.clear_cache()
        return figures(ours, task)

    size = fastest({size: partial(figures, peer, task) for size, peer in theirs.items()})
    found, expected = fresh(), figures(theirs[size], task)
    if found != expected:
        raise SystemExit(f"the figures are {found}, expected {expected}")

    def silent(call: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            call()

        return run

    calls = {"ours": silent(fresh), "theirs": silent(partial(figures, theirs[size], task))}
    seconds = harness.alternate(calls, 3 if quick else harness.ALTERNATIONS, warm_up=0)
    return {
        "documents": 4 if quick else DOCUMENTS,
        "batch_size": size,
        "figures": found,
        "times_as_fast": harness.ratio(seconds["ours"], seconds["theirs"]),
    }


def run(quick: bool = False, only: list[str] | None = None) -> dict[str, Any]:
    """Both rows; ``quick`` asks fewer questions, less often."""
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    model, tokenizer = loading.load(loading.resolve("smollm2"), dtype=torch.float32)
    rows = {sampler: partial(row, model, tokenizer, sampler, quick) for sampler in ("first_n", "default")}
    return {"threads": torch.get_num_threads(), **harness.run_rows(rows, only)}
