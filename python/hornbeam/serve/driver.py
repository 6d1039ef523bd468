"""The one thread that steps the engine, and how the event loop talks to it.

The loop posts commands and never waits for a lock of the engine; the thread carries them out between two
steps, and hands what became certain in a step back to the loop all at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from hornbeam.errors import StateError
from hornbeam.results import Generation, TokenLogprob

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.likelihood import ScoredText
    from hornbeam.engine.options import Options
    from hornbeam.engine.request import Request

__all__ = ["Driver", "Job", "ScoreJob", "Update"]

_T = TypeVar("_T")


class Update(NamedTuple):
    """What became certain of one sequence, or that it has ended.

    Attributes:
        sequence: which one of its job.
        text: what is new of it.
        token_ids: likewise.
        logprobs: of these tokens, if they were asked for.
        prompt_logprobs: those of the prompt, with the first update of a stream that asked for them.
        generation: the whole answer, once it has ended.
    """

    sequence: int
    text: str = ""
    token_ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprob] = ()
    prompt_logprobs: Sequence[TokenLogprob | None] = ()
    generation: Generation | None = None


class Job:
    """Some sequences that belong together, as the event loop sees them.

    Attributes:
        num_left: sequences whose end was not taken by :meth:`next` yet.
    """

    def __init__(self, num_sequences: int, streams: bool) -> None:
        self.num_left = num_sequences
        self.streams = streams
        self._updates: asyncio.Queue[Update | BaseException] = asyncio.Queue()
        # Of the engine's thread alone:
        self.requests: list[Request] = []
        self.is_cancelled = False
        self.shown: list[int] = []  # tokens of each that were handed out
        self.open: set[int] = set()  # sequences whose end was not handed out

    async def next(self) -> Update:
        """The next update.

        Raises:
            BaseException: whatever a sequence has failed with.
        """
        found = await self._updates.get()
        if isinstance(found, BaseException):
            raise found
        if found.generation is not None:
            self.num_left -= 1
        return found

    def take(self, update: Update | BaseException) -> None:
        """Takes an update; called in the event loop."""
        self._updates.put_nowait(update)


class ScoreJob(Job):
    """Texts that are read. Each is one sequence, whatever the number of labels.

    Attributes:
        texts: of each one entry a label, once they are read.
    """

    def __init__(self, num_texts: int) -> None:
        super().__init__(num_texts, streams=False)
        self.texts: list[list[ScoredText]] = []

    def logprobs(self) -> list[list[float]]:
        """Of each text the log-probability of each label after it."""
        return [[text.likelihood().total for text in own] for own in self.texts]


Delivery = tuple[Job, "Update | BaseException"]


class Driver:
    """Steps an engine for the jobs of an event loop.

    Args:
        engine: what it steps. Others may use it too, from their own threads.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.num_steps = 0
        self.step_seconds = 0.0
        self.submit_seconds = 0.0
        self._commands: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._jobs: list[Job] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # -- in the event loop -------------------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begins the thread, for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="hornbeam-engine", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Ends what is under way, and the thread."""
        self._commands.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def submit(self, prompts: Sequence[list[int]], options: Options, *, streams: bool) -> Job:
        """Adds sequences of one call, which :meth:`Job.next` tells of; without ``streams`` of their ends
        alone."""

        def begin(engine: Engine) -> Sequence[Request]:
            return engine.submit_all(list(prompts), options, releases=True, streams=streams)

        job = Job(len(prompts), streams)
        self._commands.put(lambda: self._begin(job, begin))
        return job

    def score(self, texts: Sequence[list[int]], labels: Sequence[int]) -> ScoreJob:
        """Adds texts that are read for the log-probabilities of some tokens after each."""
        job = ScoreJob(len(texts))

        def begin(engine: Engine) -> Sequence[Request]:
            job.texts = engine.submit_scored(lambda: (texts, [[[label] for label in labels]] * len(texts)))
            return [own[0].request for own in job.texts]

        self._commands.put(lambda: self._begin(job, begin))
        return job

    def cancel(self, job: Job) -> None:
        """Ends what is left of a job, and frees what it holds, before the next step."""
        self._commands.put(lambda: self._cancel(job))

    async def call(self, work: Callable[[Engine], _T]) -> _T:
        """What ``work`` says of the engine between two steps."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()

        def done(value: Any, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)

        def command() -> None:
            try:
                value, error = work(self.engine), None
            except Exception as failed:
                value, error = None, failed
            loop.call_soon_threadsafe(done, value, error)

        self._commands.put(command)
        return await answer

    # -- in the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                command = self._commands.get_nowait() if self._jobs else self._commands.get()
            except Empty:
                self._step()
                continue
            if command is None:
                break
            command()
        for job in list(self._jobs):
            self._cancel(job)

    def _begin(self, job: Job, begin: Callable[[Engine], Sequence[Request]]) -> None:
        if job.is_cancelled:
            return
        since = time.perf_counter()
        try:
            job.requests = list(begin(self.engine))
        except Exception as error:
            self._deliver([(job, error)])
            return
        finally:
            self.submit_seconds += time.perf_counter() - since
        job.shown = [0] * len(job.requests)
        job.open = set(range(len(job.requests)))
        self._jobs.append(job)
        self._deliver(self._news(job))  # some may have ended at once

    def _cancel(self, job: Job) -> None:
        job.is_cancelled = True
        self.engine.close_all(job.requests)
        job.requests = []
        if job in self._jobs:
            self._jobs.remove(job)

    def _step(self) -> None:
        begin = time.perf_counter()
        try:
            events = self.engine.step()
            if not events and not any(request.done for job in self._jobs for request in job.requests):
                raise StateError("the engine can do nothing for the requests under way")
        except Exception as error:
            # The engine is as it was before the step, and what is under way cannot go on.
            jobs = list(self._jobs)
            for job in jobs:
                self._cancel(job)
            self._deliver([(job, error) for job in jobs])
            return
        self.num_steps += 1
        self.step_seconds += time.perf_counter() - begin
        self._deliver([news for job in list(self._jobs) for news in self._news(job)])

    def _news(self, job: Job) -> list[Delivery]:
        """What is new of a job, which is let go of with its last."""
        found: list[Delivery] = []
        for index in sorted(job.open):
            request = job.requests[index]
            is_done = request.done
            if request.error is not None:
                error = request.error
                self._cancel(job)
                return [*found, (job, error)]
            text, tokens = "", list[int]()
            if job.streams:
                for chunk in request.chunks():
                    text += chunk.text
                    tokens += chunk.token_ids
            if not (is_done or tokens):
                continue
            begin = job.shown[index]
            job.shown[index] += len(tokens)
            logprobs = request.logprobs[begin : begin + len(tokens)]
            echoes = request.options.echo and job.streams and begin == 0
            prompt_logprobs = list(request.prompt_logprobs) if echoes else ()
            generation = request.generation() if is_done else None
            found.append((job, Update(index, text, tokens, logprobs, prompt_logprobs, generation)))
            if is_done:
                job.open.remove(index)
        if not job.open and job in self._jobs:
            self._jobs.remove(job)
        return found

    def _deliver(self, news: Sequence[Delivery]) -> None:
        """Hands news to the event loop, all of them in one turn of it."""
        if news and self._loop is not None:
            self._loop.call_soon_threadsafe(_hand_out, news)


def _hand_out(news: Sequence[Delivery]) -> None:
    for job, update in news:
        job.take(update)
