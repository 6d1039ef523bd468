"""Searches on a worker: several at a time on one engine, each on a thread of its own."""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbeam.integrations.ray.coordinator import Told
from hornbeam.integrations.ray.parcel import Parcel
from hornbeam.integrations.ray.work import EVERY, IDLE, Desk, Failed, Job
from hornbeam.search import Budget, SearchProgress, SearchResult

if TYPE_CHECKING:
    from hornbeam.lm import LM

__all__ = ["Searching"]


class Stopped(Exception):
    """The call is over before a search is."""


@dataclass(frozen=True)
class Searching:
    """Searches.

    Attributes:
        options: of :meth:`hornbeam.LM.search`, without its budget.
        each: what one search may spend, whatever its share.
        in_flight: searches at a time.
        is_durable: whether rounds are written into a folder, so that a search that gets more can be gone on
            with: where it cannot, it is done anew.
        is_watched: whether the recipe can be watched.
    """

    options: Mapping[str, Any]
    each: Budget
    in_flight: int
    is_durable: bool
    is_watched: bool

    def run(self, lm: LM, desk: Desk) -> int:
        """See :meth:`hornbeam.integrations.ray.work.Work.run`."""
        folder = Path(tempfile.mkdtemp(prefix="hornbeam-searches-"))
        try:
            return _Searches(self, lm, desk, folder).run()
        finally:
            shutil.rmtree(folder)


class _Searches:
    """One worker at searching."""

    def __init__(self, work: Searching, lm: LM, desk: Desk, folder: Path) -> None:
        self._work = work
        self._lm = lm
        self._desk = desk
        self._folder = folder
        self._threads: dict[int, threading.Thread] = {}
        self._ended: queue.SimpleQueue[tuple[int, SearchResult | Exception, bool]] = queue.SimpleQueue()
        self._written: dict[int, int] = {}
        self._is_over = False

    def run(self) -> int:
        count, last, told = 0, -EVERY, Told()
        try:
            while True:
                self._collect(told)
                now = time.monotonic()
                if not (told.answers or told.cut or now - last >= EVERY):
                    time.sleep(IDLE)
                    continue
                last, count = now, count + len(told.answers)
                told.written = {item: self._written.get(item, 0) for item in self._threads}
                told.running = len(self._threads)
                told.room = self._work.in_flight - told.running
                orders = self._desk.exchange(told)
                told = Told()
                if orders.is_over:
                    return count
                for item, job in orders.new.items():
                    if item not in self._threads:  # it is, where this worker was taken for dead
                        self._begin(item, job, orders.shares.get(item, {}))
        finally:
            self._is_over = True
            for thread in self._threads.values():
                thread.join()

    def _begin(self, item: int, job: Job, share: Mapping[str, int]) -> None:
        budget, can_rise = limited(self._work.each, share)
        self._written[item] = 0
        thread = threading.Thread(target=self._search, args=(item, job, budget, can_rise), daemon=True)
        self._threads[item] = thread
        thread.start()

    def _search(self, item: int, job: Job, budget: Budget, can_rise: Mapping[str, bool]) -> None:
        found: SearchResult | Exception
        options = {**self._where(item), **self._work.options}
        if self._work.is_watched:
            options["watch"] = lambda progress: self._look(item, progress)
        try:
            found = self._lm.search(job.prompt, budget=budget, **options)
        except Exception as error:
            found = error
        is_cut = isinstance(found, SearchResult) and can_rise.get(found.stop, False)
        self._ended.put((item, found, is_cut))

    def _where(self, item: int) -> dict[str, Any]:
        """The folder of a search that may be gone on with when its share rises."""
        if not self._work.is_durable:
            return {}
        folder = self._folder / str(item)
        return {"resume" if (folder / "search.json").exists() else "checkpoint": folder}

    def _look(self, item: int, progress: SearchProgress) -> None:
        self._written[item] = progress.ledger.tokens
        if self._is_over:
            raise Stopped

    def _collect(self, told: Told) -> None:
        """Takes up what has ended."""
        while True:
            try:
                item, found, is_cut = self._ended.get_nowait()
            except queue.Empty:
                return
            del self._threads[item]
            if isinstance(found, Exception):
                raise Failed(item, found)
            used = {"tokens": found.ledger.tokens, "verifier_calls": found.ledger.verifier_calls}
            if found.error is not None:
                raise Failed(item, found.error)
            (told.cut if is_cut else told.answers)[item] = (Parcel.of(found), used)


def limited(each: Budget, share: Mapping[str, int]) -> tuple[Budget, dict[str, bool]]:
    """What one search may spend, and of each kind whether it is its share that limits it."""
    limits: dict[str, int] = {}
    can_rise: dict[str, bool] = {}
    for kind, most in share.items():
        own = getattr(each, kind)
        can_rise[kind] = own is None or most < own
        limits[kind] = most if own is None else min(most, own)
    return replace(each, **limits), can_rise
