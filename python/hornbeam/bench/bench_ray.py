"""Many prompts over a Ray cluster on this machine: two workers over one, and what it costs to ship a model.

    hornbeam bench ray [--quick] [--only ROW ...]

Rows:

``workers``: ``generate_many`` on two workers with one thread each over one worker with one thread, on the
    default model, 32 prompts in flight a worker at least. ``identical`` counts the texts whose tokens are all
    the same on both (sums over other numbers of rows differ in their last bits, so a near tie may fall either
    way). ``at_work`` counts from the first prompt that a worker begins with, ``whole_call`` from the call on:
    each call starts its workers anew, which import torch and load the model.
``ship``: bytes and seconds until a worker has the default model: from Ray's object store, where its weights
    are put once and read in place, and from its path, which each worker reads. Seconds are medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import hornbeam as hb
from hornbeam.bench import harness
from hornbeam.bench.workload import mixed
from hornbeam.errors import MissingExtra
from hornbeam.integrations.ray.shipping import shipment

MODEL = "smollm2"
IN_FLIGHT = 32
PROMPTS, TOKENS = 64, 64


class Bench:
    """The rows."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.alternations = 1 if quick else harness.ALTERNATIONS
        texts = mixed()
        self.prompts = [
            [{"role": "user", "content": texts[place % len(texts)]}]
            for place in range(16 if quick else PROMPTS)
        ]

    def workers(self) -> dict[str, Any]:
        """Two workers over one."""
        options: dict[str, Any] = {
            "max_new_tokens": 16 if self.quick else TOKENS,
            "temperature": 0.8,
            "draft": None,
            "eos_token_id": [],
            "in_flight": IN_FLIGHT,
        }
        texts: dict[int, list[list[int]]] = {}
        at_work: dict[int, list[float]] = {1: [], 2: []}

        def call(count: int) -> float:
            begin = time.perf_counter()
            found = hb.integrations.ray.generate_many(MODEL, self.prompts, workers=count, **options)
            spent = time.perf_counter() - begin
            texts[count] = [answer.token_ids for answer in found]
            at_work[count].append(found.progress.seconds)
            return spent

        whole = harness.alternate(
            {"two": lambda: call(2), "one": lambda: call(1)},
            self.alternations,
            warm_up=0 if self.quick else 1,
        )
        kept = {count: seconds[-self.alternations :] for count, seconds in at_work.items()}
        return {
            "jobs": len(self.prompts),
            "identical": sum(a == b for a, b in zip(texts[1], texts[2], strict=True)),
            "at_work": harness.ratio(kept[2], kept[1]),
            "whole_call": harness.ratio(whole["two"], whole["one"]),
        }

    def ship(self) -> dict[str, Any]:
        """Object store over path."""
        import ray

        lm = hb.LM.from_pretrained(MODEL)
        begin = time.perf_counter()
        shipped = shipment(lm, {})
        put = ray.put(shipped)
        put_seconds = time.perf_counter() - begin
        path = ray.put(shipment(MODEL, {}))

        @ray.remote(num_cpus=1)
        def opened(holder: list[Any]) -> float:
            """Seconds until this worker has the model; what it imports is not among them."""
            hb.LM.from_pretrained(MODEL)
            begin = time.perf_counter()
            ray.get(holder[0]).open()
            return time.perf_counter() - begin

        seconds: dict[str, list[float]] = {"store": [], "path": []}
        for _ in range(self.alternations):
            seconds["store"].append(ray.get(opened.remote([put])))
            seconds["path"].append(ray.get(opened.remote([path])))
        return {
            "store_bytes": sum(array.nbytes for array in shipped.weights) + len(shipped.packed),
            "store_put_seconds": put_seconds,
            "store_open_seconds": statistics.median(seconds["store"]),
            "path_bytes": len(MODEL),
            "path_open_seconds": statistics.median(seconds["path"]),
        }


def run(quick: bool = False, only: Iterable[str] | None = None) -> dict[str, Any]:
    """All rows, or those that ``only`` names.

    Raises:
        MissingExtra: Ray Data is not installed.
    """
    if find_spec("ray") is None:
        raise MissingExtra("ray is not installed: pip install 'hornbeam[ray]'")
    import ray

    bench = Bench(quick)
    rows: dict[str, Callable[[], dict[str, Any]]] = {"workers": bench.workers, "ship": bench.ship}
    with ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False):
        return harness.run_rows(rows, only)
