"""Workers in this process, on threads, with the coordinator that those of a cluster have."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import hornbeam as hb
from hornbeam.integrations.ray.coordinator import Coordinator, Orders, Progress, Told
from hornbeam.integrations.ray.given import lengths
from hornbeam.integrations.ray.shares import Terms
from hornbeam.integrations.ray.work import Job, Work, worked


class Killed(BaseException):
    """A worker dies: nothing that it holds is told any more."""


class Crew:
    """Some workers and their coordinator.

    Args:
        work: what they do.
        jobs: one a prompt.
        lms: the engine of each worker.
        terms: of the budget over all.
        kills: of each worker, after how many exchanges it dies; it begins anew then, and dies no more.
        options: of the coordinator.
    """

    def __init__(
        self,
        work: Work,
        jobs: Sequence[Job],
        lms: Sequence[hb.LM],
        terms: Terms,
        kills: Sequence[int | None] = (),
        **options: Any,
    ) -> None:
        self.work = work
        self.lms = lms
        self.kills = dict(enumerate(kills))
        self.count = len(jobs)
        self.coordinator = Coordinator(jobs, lengths(jobs, None), terms, workers=len(lms), **options)
        self._lock = threading.Lock()

    def run(self) -> tuple[list[Any], Progress]:
        """The answers, and where the call stands at its end."""
        threads = [threading.Thread(target=self._live, args=(place,)) for place in range(len(self.lms))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a worker does not end"
        if (error := self.coordinator.error()) is not None:
            raise error
        return self.coordinator.answers(0, self.count), self.coordinator.progress()

    def _live(self, place: int) -> None:
        for life in itertools.count():
            desk = _Desk(self, place, str(life), self.kills.pop(place, None))
            try:
                worked(lambda desk=desk: self.work.run(self.lms[place], desk), desk)  # type: ignore[misc]
                return
            except Killed:
                self.lms[place].clear_cache()

    def exchange(self, place: int, life: str, told: Told) -> Orders:
        """One at a time, as an actor does."""
        with self._lock:
            return self.coordinator.exchange(f"worker {place}", life, told)


class _Desk:
    def __init__(self, crew: Crew, place: int, life: str, exchanges: int | None) -> None:
        self.crew, self.place, self.life, self.exchanges = crew, place, life, exchanges
        crew.coordinator.join(f"worker {place}", life)

    def exchange(self, told: Told) -> Orders:
        if self.exchanges is not None:
            if self.exchanges == 0:
                raise Killed
            self.exchanges -= 1
        return self.crew.exchange(self.place, self.life, told)
