"""What a worker does with its engine, whoever hands it the prompts."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hornbeam.engine.processors import EachPrompt
from hornbeam.engine.request import Call, Request
from hornbeam.errors import ArgumentError, HornbeamError, StateError
from hornbeam.integrations.ray.coordinator import Orders, Told
from hornbeam.prompt import prompts_of
from hornbeam.results import Generation

if TYPE_CHECKING:
    from hornbeam.lm import LM

__all__ = ["IDLE", "Desk", "Failed", "Generating", "Job", "Scoring", "Work", "cut_short", "worked"]

#: A worker that has nothing to tell asks what is new after so many seconds.
EVERY = 0.25
#: One that has nothing to do waits so long.
IDLE = 0.05


class Desk(Protocol):
    """Where a worker tells what it has done and hears what to do."""

    def exchange(self, told: Told) -> Orders:
        """See :meth:`Coordinator.exchange`."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of a prompt.

    Attributes:
        prompt: as the caller gave it.
        number: which random numbers it draws: how many equal prompts came before it.
        continuations: of a prompt whose continuations are scored.
    """

    prompt: Any
    number: int = 0
    continuations: Any = None


class Work(Protocol):
    """A kind of work."""

    def run(self, lm: LM, desk: Desk) -> int:
        """Works until there is nothing more to do; returns how many prompts it has answered."""


class Failed(Exception):
    """A prompt whose work has failed.

    Args:
        item: its number.
        error: what it has failed with.
    """

    def __init__(self, item: int, error: BaseException) -> None:
        super().__init__(item, error)
        self.item = item
        self.error = error


def told_of(error: Exception) -> tuple[int | None, BaseException]:
    """What a worker tells of an error: the prompt, and an error that names it."""
    item: int | None = None
    found: BaseException = error
    if isinstance(error, Failed):
        item, found = error.item, error.error
        if isinstance(found, HornbeamError):
            found = type(found)(f"prompt {item}: {found}")
    try:
        pickle.loads(pickle.dumps(found))
    except Exception:  # errors of models and processors may hold anything
        found = StateError(f"prompt {item}: {type(found).__name__}: {found}")
    return item, found


@dataclass(frozen=True)
class Generating:
    """Continues prompts: as many as there is room for at a time, in one ragged batch.

    Attributes:
        options: of :meth:`hornbeam.LM.generate`.
        in_flight: prompts that decode at a time.
    """

    options: Mapping[str, Any]
    in_flight: int

    def run(self, lm: LM, desk: Desk) -> int:
        """See :class:`Work`."""
        return _Generation(self, lm, desk).run()


class _Generation:
    """One worker at generating."""

    def __init__(self, work: Generating, lm: LM, desk: Desk) -> None:
        self._work = work
        self._engine = lm.engine
        self._desk = desk
        self._held: dict[int, Request] = {}
        self._call = Call()
        self._told = Told()
        self._count = 0

    def run(self) -> int:
        last = -EVERY
        try:
            while True:
                now = time.monotonic()
                if self._told.answers or not self._running() or now - last >= EVERY:
                    orders, last = self._exchange(), now
                    if orders.is_over:
                        return self._count
                if not self._engine.step() and not self._told.answers:
                    time.sleep(IDLE)
                self._collect()
        finally:
            self._engine.close_all(list(self._held.values()))

    def _running(self) -> list[Request]:
        return [request for request in self._held.values() if not request.is_paused]

    def _exchange(self) -> Orders:
        """Tells what there is to tell, and does what it is told."""
        told, self._told = self._told, Told()
        self._count += len(told.answers)
        told.written = {item: len(request.output) for item, request in self._held.items()}
        told.running = len(self._running())
        told.room = self._work.in_flight - told.running
        orders = self._desk.exchange(told)
        for item in self._held.keys() - orders.shares.keys():
            self._held.pop(item).cancel()
        # It holds some of them already where it was taken for dead.
        self._submit({item: job for item, job in orders.new.items() if item not in self._held})
        for item, request in list(self._held.items()):
            if not request.done:
                self._allow(request, orders.shares[item].get("tokens"))
                if orders.is_last and request.is_paused:
                    self._answer(item, cut_short(request))
        return orders

    def _submit(self, jobs: Mapping[int, Job]) -> None:
        """Begins with prompts: those that come together are read together."""
        if not jobs:
            return
        engine, items = self._engine, list(jobs)
        prompts = [_ids(engine, item, job.prompt) for item, job in jobs.items()]
        requests = engine.submit_all(
            prompts,
            engine.options_of(**_with_places(self._work.options, items)),
            streams=False,
            releases=True,
            owner=self._call,
            numbers=[job.number for job in jobs.values()],
        )
        self._held.update(zip(items, requests, strict=True))

    def _allow(self, request: Request, tokens: int | None) -> None:
        """Lets a request write so many tokens in all. One that stands there leaves its memory to others."""
        if tokens is None:
            return
        if not request.is_paused or tokens > len(request.output):
            request.pause(tokens)
        if request.is_paused and not request.is_closed:
            request.pause(release=True)

    def _collect(self) -> None:
        for item, request in list(self._held.items()):
            if request.error is not None:
                raise Failed(item, request.error)
            if request.done:
                self._answer(item, request.generation())

    def _answer(self, item: int, answer: Generation) -> None:
        del self._held[item]
        self._told.answers[item] = (answer, {"tokens": len(answer.token_ids)})


def cut_short(request: Request) -> Generation:
    """The answer of a request that its share has cut short, and that goes on no more."""
    if request.text is not None:
        request.text.finish()
    answer = request.generation()
    request.cancel()
    return answer


def _ids(engine: Any, item: int, prompt: Any) -> list[int]:
    try:
        [ids], _ = prompts_of(engine, prompt)
    except ArgumentError as error:
        raise Failed(item, error) from error
    return ids


def _with_places(options: Mapping[str, Any], items: Sequence[int]) -> dict[str, Any]:
    """The options of prompts that are submitted together: the factory of an EachPrompt is given the place in
    the caller's list."""
    given = dict(options)
    each = given.get("logits_processor")
    if isinstance(each, EachPrompt):
        given["logits_processor"] = EachPrompt(lambda place, ids: each.factory(items[place], ids))
    return given


@dataclass(frozen=True)
class Scoring:
    """Scores the continuations of prompts.

    Attributes:
        in_flight: prompts at a time.
    """

    in_flight: int

    def run(self, lm: LM, desk: Desk) -> int:
        """See :class:`Work`."""
        told, count = Told(room=self.in_flight), 0
        while not (orders := desk.exchange(told)).is_over:
            told = Told(room=self.in_flight)
            jobs = orders.new
            if not jobs:
                time.sleep(IDLE)
                continue
            try:
                found = lm.score(
                    [job.prompt for job in jobs.values()], [job.continuations for job in jobs.values()]
                )
            except Exception:
                found = [_scored(lm, item, job) for item, job in jobs.items()]
            told.answers = {item: (answer, {}) for item, answer in zip(jobs, found, strict=True)}
            count += len(jobs)
        return count


def _scored(lm: LM, item: int, job: Job) -> Any:
    """The score of one prompt alone, to know which one fails."""
    try:
        return lm.score(job.prompt, job.continuations)
    except Exception as error:
        raise Failed(item, error) from error


def worked(work: Callable[[], int], desk: Desk) -> int:
    """Does ``work``, and tells what it fails with."""
    try:
        return work()
    except Exception as error:
        desk.exchange(Told(failed=told_of(error)))
    return 0
