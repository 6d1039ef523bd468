"""Runs work on a Ray cluster: an actor pool of Ray Data, one engine an actor, and one coordinator.

Each row of the data set that is mapped is a seat at the work, and each actor takes one. In its seat it asks
the coordinator for prompts, as many as its engine has room for, until none is left: batches of rows would
leave an engine half empty as soon as the short texts of a batch have ended. Ray starts a dead actor anew and
calls it again; the coordinator hands what it held to whoever asks next.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.data import ActorPoolStrategy, Dataset
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hornbeam.errors import StateError
from hornbeam.integrations.ray.coordinator import Coordinator, Orders, Progress, Told
from hornbeam.integrations.ray.pool import Pool
from hornbeam.integrations.ray.shares import Terms
from hornbeam.integrations.ray.shipping import Shipment
from hornbeam.integrations.ray.work import Job, Work, worked

__all__ = ["connected", "run"]

Watch = Callable[[Progress], Any]

#: The caller looks so often where the call stands, in seconds.
LOOK = 0.1
#: Answers are fetched in parts of so many.
PART = 256


@contextmanager
def connected() -> Iterator[None]:
    """The cluster that the caller is connected to; else the one that ``RAY_ADDRESS`` names, or one on this
    machine that lasts as long as the call."""
    if ray.is_initialized():
        yield
        return
    with ray.init():
        yield


def run(
    work: Work,
    shipped: Shipment,
    jobs: Sequence[Job],
    expected: Sequence[float],
    terms: Terms,
    pool: Pool,
    watch: Watch | None,
) -> tuple[list[Any], Progress]:
    """The answers to all prompts, in order, and where the call stood at its end.

    Args:
        work: what workers do.
        shipped: with which model.
        jobs: one a prompt.
        expected: how long each is expected to take, in any unit.
        terms: of the budget over all.
        pool: who works.
        watch: is told where the call stands as it goes on, and at its end.

    Raises:
        BaseException: what a prompt has failed with, or a worker, or ``watch``.
    """
    size = pool.size(len(jobs), ray.cluster_resources())
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    coordinator = (
        ray.remote(Coordinator)
        .options(num_cpus=0, scheduling_strategy=here, max_concurrency=1)
        .remote(list(jobs), list(expected), terms, workers=size, tries=pool.tries, patience=pool.patience)
    )
    try:
        return _watched(_seats(coordinator, work, shipped, pool, size), coordinator, len(jobs), watch)
    finally:
        ray.kill(coordinator)


def _seats(coordinator: Any, work: Work, shipped: Shipment, pool: Pool, size: int) -> Dataset:
    seats = ray.data.from_items([{"seat": number} for number in range(size)], override_num_blocks=size)
    seats.context.enable_progress_bars = False
    return seats.map_batches(
        Seat,
        fn_constructor_args=(coordinator, ray.put(shipped), work, pool.num_cpus, pool.patience),
        batch_size=1,
        compute=ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
        **({"resources": pool.resources} if pool.resources else {}),
    )


def _watched(seats: Dataset, coordinator: Any, count: int, watch: Watch | None) -> tuple[list[Any], Progress]:
    """Runs the seats on a thread of their own, and looks after them here."""
    ended: list[BaseException | None] = []

    def work() -> None:
        try:
            seats.materialize()
            ended.append(None)
        except BaseException as error:  # it is raised where the call was made
            ended.append(error)

    thread = threading.Thread(target=work, daemon=True, name="hornbeam-seats")
    thread.start()
    try:
        seen = None
        while thread.is_alive():
            if watch is not None and (now := ray.get(coordinator.progress.remote())).answered != seen:
                watch(now)
                seen = now.answered
            thread.join(LOOK)
    finally:
        ray.get(coordinator.stop.remote())
        thread.join()
    error = ray.get(coordinator.error.remote()) or ended[0]
    if error is not None:
        raise error
    progress: Progress = ray.get(coordinator.progress.remote())
    if progress.answered < count:
        raise StateError(f"the workers ended with {progress.answered} of {count} answers")
    if watch is not None and progress.answered != seen:
        watch(progress)
    answers: list[Any] = []
    for begin in range(0, count, PART):
        answers += ray.get(coordinator.answers.remote(begin, begin + PART))
    return answers, progress


class Seat:
    """An actor's place at the work. Made again when Ray starts it anew.

    Args:
        coordinator: the actor that hands out prompts.
        shipped: the reference of a :class:`Shipment`.
        work: what is done.
        threads: that its engine computes with.
        patience: seconds of silence after which it is taken for dead.
    """

    def __init__(self, coordinator: Any, shipped: Any, work: Work, threads: int, patience: float) -> None:
        self._coordinator = coordinator
        self._shipped = shipped
        self._work = work
        self._worker = ray.get_runtime_context().get_actor_id()
        self._life = uuid.uuid4().hex
        self._is_open = True
        self._every = patience / 4
        torch.set_num_threads(threads)
        ray.get(coordinator.join.remote(self._worker, self._life))
        threading.Thread(target=self._say_alive, daemon=True).start()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Works until nothing is left; says how many prompts it has answered."""
        count = worked(lambda: self._work.run(ray.get(self._shipped).open(), self), self)
        self._is_open = False
        return {"seat": batch["seat"], "answered": [count]}

    def exchange(self, told: Told) -> Orders:
        """See :meth:`Coordinator.exchange`."""
        orders: Orders = ray.get(self._coordinator.exchange.remote(self._worker, self._life, told))
        return orders

    def _say_alive(self) -> None:
        """While a step takes long, and while the model is loaded."""
        while self._is_open:
            self._coordinator.alive.remote(self._worker, self._life)
            time.sleep(self._every)
