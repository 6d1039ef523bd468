"""Who works on what, and what of it counts: the one place that all workers talk to.

An answer counts when it is told, once: whoever tells the same one later, after it was taken for dead, is not
    listened to. All that a dead worker held waits again. So it does not matter for the answers, nor for the
    ledger,
whether a worker is dead or only slow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hornbeam.errors import StateError
from hornbeam.integrations.ray.queue import Waiting
from hornbeam.integrations.ray.shares import Shares, Terms

__all__ = ["Coordinator", "Orders", "Progress", "Told"]


@dataclass(frozen=True)
class Progress:
    """Where a call over many machines stands.

    Attributes:
        answered: prompts that have their answer.
        prompts: of the call.
        tokens: that the answers so far have cost.
        verifier_calls: likewise.
        workers: that are at work.
        lost_tries: prompts that were under way on a worker that died, counted again each time; they are done
            anew.
        lost_tokens: those that were written for them, as far as the worker had told: work that was done twice
            and is charged to no budget.
        seconds: since the first prompt was begun, when a worker had its model.
    """

    answered: int
    prompts: int
    tokens: int
    verifier_calls: int
    workers: int
    lost_tries: int
    lost_tokens: int
    seconds: float

    def __str__(self) -> str:
        lost = f", {self.lost_tries} lost tries" if self.lost_tries else ""
        return (
            f"{self.answered} of {self.prompts} answers, {self.tokens} tokens, {self.workers} workers, "
            f"{self.seconds:.0f} s{lost}"
        )


@dataclass
class Told:
    """What a worker tells.

    Attributes:
        answers: by prompt, each with what it has cost.
        cut: of prompts that their share has cut short, the answers so far, which may become longer when the
            share rises.
        written: tokens so far, of each prompt that it holds.
        failed: a prompt, or None for the worker itself, and what has failed.
        room: how many more prompts it can take.
        running: how many of those that it holds are not held up by their share.
    """

    answers: dict[int, tuple[Any, dict[str, int]]] = field(default_factory=dict)
    cut: dict[int, tuple[Any, dict[str, int]]] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)
    failed: tuple[int | None, BaseException] | None = None
    room: int = 0
    running: int = 0


@dataclass(frozen=True)
class Orders:
    """What a worker is to do.

    Attributes:
        new: prompts to begin with, by number.
        shares: what each prompt that it holds may spend, of each kind that is limited. Those that are not
            among them it lets go of.
        is_last: no share rises any more: prompts that stand at theirs are to be answered with what there is.
        is_over: there is nothing more to do.
    """

    new: dict[int, Any]
    shares: dict[int, dict[str, int]]
    is_last: bool = False
    is_over: bool = False


@dataclass
class _Worker:
    """What is known of a worker."""

    life: str
    seen: float
    held: set[int] = field(default_factory=set)
    written: dict[int, int] = field(default_factory=dict)
    running: int = 0


class Coordinator:
    """Hands out prompts, takes answers, and holds the ledger over all.

    Args:
        jobs: one a prompt, whatever a worker needs to know of it.
        expected: how long each is expected to take, in any unit.
        terms: of the budget over all.
        workers: how many are expected.
        tries: so often a prompt may be on a worker that dies, before the call fails.
        patience: seconds of silence after which a worker is taken for dead.
        clock: gives seconds.
    """

    def __init__(
        self,
        jobs: Sequence[Any],
        expected: Sequence[float],
        terms: Terms,
        *,
        workers: int,
        tries: int = 3,
        patience: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs = list(jobs)
        self._waiting = Waiting(expected)
        self._shares = Shares(terms, len(self._jobs))
        self._expected_workers = workers
        self._tries = tries
        self._patience = patience
        self._clock = clock
        self._began: float | None = None
        self._workers: dict[str, _Worker] = {}
        self._answers: dict[int, Any] = {}
        self._cut: dict[int, tuple[Any, dict[str, int]]] = {}
        self._homes: dict[int, str] = {}
        self._lost: dict[int, int] = {}
        self._lost_tokens = 0
        self._is_last = False
        self._is_stopped = False
        self._error: BaseException | None = None

    # -- what workers call -------------------------------------------------------------------------------

    def join(self, worker: str, life: str) -> None:
        """A worker begins, or begins anew with another ``life`` after it has died."""
        known = self._workers.get(worker)
        if known is not None and known.life != life:
            self._lose(worker)
        if worker not in self._workers:
            self._workers[worker] = _Worker(life, self._clock())

    def alive(self, worker: str, life: str) -> None:
        """A worker lives, and has nothing to tell."""
        known = self._workers.get(worker)
        if known is not None and known.life == life:
            known.seen = self._clock()

    def exchange(self, worker: str, life: str, told: Told) -> Orders:
        """Takes what a worker tells, and says what it is to do. Of one that was taken for dead the answers
        are welcome, if nobody was faster; it begins anew then."""
        for item, (answer, used) in told.answers.items():
            self._take(item, answer, used)
        if told.failed is not None:
            self._fail(*told.failed)
        known = self._workers.get(worker)
        if known is not None and known.life != life:
            return Orders({}, {}, is_over=True)  # its place was taken
        self.join(worker, life)
        known = self._workers[worker]
        known.seen, known.written = self._clock(), dict(told.written)
        for item, cut in told.cut.items():
            self._take_cut(known, item, cut)
        known.held -= self._answers.keys()
        known.running = told.running
        self._look_after()
        if self.is_over:
            return Orders({}, {}, is_over=True)
        new = self._hand_out(worker, known, told.room)
        shares = {item: self._shares.grant(item) for item in known.held} if self._shares.is_limited else {}
        return Orders(new, shares or {item: {} for item in known.held}, self._is_last)

    # -- what the caller asks ----------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether every prompt has its answer, or the call has failed or was stopped."""
        return self._is_stopped or self._error is not None or len(self._answers) == len(self._jobs)

    def stop(self) -> None:
        """No worker goes on."""
        self._is_stopped = True

    def error(self) -> BaseException | None:
        """What the call has failed with, if it has."""
        return self._error

    def answers(self, begin: int, end: int) -> list[Any]:
        """Those of the prompts from ``begin`` to ``end``."""
        return [self._answers[item] for item in range(begin, min(end, len(self._jobs)))]

    def progress(self) -> Progress:
        """Where the call stands."""
        ledger = self._shares.ledger
        return Progress(
            answered=len(self._answers),
            prompts=len(self._jobs),
            tokens=ledger.tokens,
            verifier_calls=ledger.verifier_calls,
            workers=len(self._workers),
            lost_tries=sum(self._lost.values()),
            lost_tokens=self._lost_tokens,
            seconds=0.0 if self._began is None else self._clock() - self._began,
        )

    # -- its own -----------------------------------------------------------------------------------------

    def _take(self, item: int, answer: Any, used: Mapping[str, int]) -> None:
        """The answer to a prompt, unless it is there."""
        if item in self._answers:
            return
        self._waiting.drop(item)
        self._cut.pop(item, None)
        self._shares.done(item, used)
        self._answers[item] = answer

    def _take_cut(self, known: _Worker, item: int, cut: tuple[Any, dict[str, int]]) -> None:
        """A search that its share has cut short: it waits for the others, since a share rises for all that
        are left at once."""
        if item in known.held and item not in self._answers:
            known.held.discard(item)
            self._cut[item] = cut

    def _fail(self, item: int | None, error: BaseException) -> None:
        if self._error is None and (item is None or item not in self._answers):
            self._error = error

    def _hand_out(self, worker: str, known: _Worker, room: int) -> dict[int, Any]:
        """As many prompts as a worker has room for, or as are its part of those that can be worked on."""
        others = sum(other.running for other in self._workers.values())
        part = -(-(len(self._waiting) + others) // self._expected_workers)
        new: dict[int, Any] = {}
        while len(new) < room and known.running < part and (item := self._waiting.take(worker)) is not None:
            new[item] = self._jobs[item]
            known.held.add(item)
            known.running += 1
            self._homes[item] = worker
            self._began = self._began or self._clock()
        return new

    def _lose(self, worker: str) -> None:
        """What a dead worker held waits again."""
        known = self._workers.pop(worker)
        self._waiting.leave(worker)
        for item in sorted(known.held):
            self._lost[item] = self._lost.get(item, 0) + 1
            self._lost_tokens += known.written.get(item, 0)
            self._waiting.add(item)
            if self._lost[item] >= self._tries:
                self._fail(item, StateError(f"{self._tries} workers have died with prompt {item} under way"))

    def _look_after(self) -> None:
        """Looks for workers that are silent, and whether all that are left stand at their share."""
        now = self._clock()
        for worker, known in list(self._workers.items()):
            if now - known.seen > self._patience:
                self._lose(worker)
        left = len(self._jobs) - len(self._answers)
        if not (left and self._shares.is_limited) or self._waiting or self._error is not None:
            return
        if len(self._cut) == left:
            self._next_round()
        elif not self._cut and not any(known.running for known in self._workers.values()):
            at_share = [
                known.written.get(item, 0) >= self._shares.share(item)["tokens"]
                for known in self._workers.values()
                for item in known.held
            ]
            self._is_last = len(at_share) == left and all(at_share)

    def _next_round(self) -> None:
        """The shares of those that were cut short rise, if there is anything left; else they have what they
        get."""
        cut, self._cut = self._cut, {}
        if self._shares.advance():
            for item in cut:
                self._waiting.add(item, self._homes.get(item))
            return
        for item, (answer, used) in cut.items():
            self._shares.done(item, used)
            self._answers[item] = answer
