"""From a request to its answer: admitted, read, computed with all others, and written."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from hornbeam.errors import ArgumentError, HornbeamError, LogitsError, OutOfPages
from hornbeam.results import Generation
from hornbeam.serve.answers import Answer, ChatAnswer, CompletionAnswer
from hornbeam.serve.body import ClientGone, read_body
from hornbeam.serve.driver import Driver, Job, Update
from hornbeam.serve.events import EventStream, until_gone
from hornbeam.serve.fields import Chat, Completion, Fields, Scoring
from hornbeam.serve.limits import Limits
from hornbeam.serve.metrics import Metrics
from hornbeam.serve.reading import Asked, read_generated, read_scoring
from hornbeam.serve.refusal import Refusal
from hornbeam.serve.tokens import TokenNames

__all__ = ["Service"]

_T = TypeVar("_T")
_F = TypeVar("_F", Completion, Chat, Scoring)
#: Never sent: nobody is there any more. As nginx has it.
CLIENT_CLOSED = 499
#: Threads that read prompts and compile grammars.
READERS = 4
#: A body of so many bytes at most, without a grammar, is read at once: a thread takes longer to begin.
SHORT_BYTES = 2048
_LOG = logging.getLogger("hornbeam.serve")


@dataclass
class Admitted:
    """A request under way; :meth:`leave` says that it is not any more."""

    service: Service
    route: str
    begin: float
    jobs: list[Job] = field(default_factory=list)
    is_here: bool = True

    @property
    def deadline(self) -> float:
        """When its time is over."""
        return self.begin + self.service.limits.seconds

    def leave(self, status: int) -> None:
        """Frees all that it holds."""
        if not self.is_here:
            return
        self.is_here = False
        service = self.service
        for job in self.jobs:
            if job.num_left:
                service.driver.cancel(job)
        service.num_open -= 1
        spent = anyio.current_time() - self.begin
        service.mean_seconds += 0.1 * (spent - service.mean_seconds)
        service.metrics.open_requests.set(service.num_open)
        service.metrics.requests.labels(self.route, str(status)).inc()
        service.metrics.seconds.labels(self.route).observe(spent)


class Service:
    """Answers requests on one model.

    Args:
        driver: steps its engine.
        name: of the model.
        limits: what is allowed.
        draft: where the guesses of all requests come from.
    """

    def __init__(self, driver: Driver, name: str, limits: Limits, draft: Any) -> None:
        self.driver = driver
        self.engine = driver.engine
        self.name = name
        self.limits = limits
        self.draft = draft
        self.metrics = Metrics()
        self.names = TokenNames(self.engine.tokenizer)
        # The first call settles how a tokenizer pads and truncates, which no two threads may do at once.
        self.engine.tokenizer("a")
        self.num_open = 0
        self.mean_seconds = 1.0
        self._readers: anyio.CapacityLimiter | None = None

    def begin(self) -> None:
        """Begins to answer, in the running event loop."""
        self.driver.start()
        # Prompts are read, and grammars compiled, beside the event loop, a few at a time.
        self._readers = anyio.CapacityLimiter(READERS)

    async def end(self) -> None:
        """Ends what is under way."""
        await self.driver.stop()

    # -- routes ------------------------------------------------------------------------------------------

    async def completions(self, request: Request) -> Response:
        """``POST /v1/completions``."""
        return await self._answered("completions", request, self._completion)

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        return await self._answered("chat", request, self._chat)

    async def score(self, request: Request) -> Response:
        """``POST /v1/score``."""
        return await self._answered("score", request, self._score)

    # -- what all have in common -------------------------------------------------------------------------

    async def _answered(
        self,
        route: str,
        request: Request,
        answer: Callable[[Request, Admitted], Awaitable[Response]],
    ) -> Response:
        """Admits a request and answers it; a stream leaves when it has ended."""
        try:
            admitted = self._admit(route)
        except Refusal as refusal:
            self.metrics.requests.labels(route, str(refusal.status)).inc()
            return refusal.response
        status = CLIENT_CLOSED
        try:
            with anyio.CancelScope(deadline=admitted.deadline) as limit:
                try:
                    response = await answer(request, admitted)
                except Refusal as refusal:
                    response = refusal.response
                except ClientGone:
                    response = Response(status_code=CLIENT_CLOSED)
            if limit.cancelled_caught:
                response = self._too_late.response
            status = response.status_code
        except Exception:
            status = 500
            raise
        finally:
            if status != 200 or not isinstance(response, EventStream):
                admitted.leave(status)
        return response

    def _admit(self, route: str) -> Admitted:
        if self.num_open >= self.limits.open_requests:
            wait = min(max(math.ceil(self.mean_seconds / self.limits.open_requests), 1), 60)
            raise Refusal(
                429,
                f"{self.num_open} requests are under way, expected fewer than {self.limits.open_requests}; "
                f"try again in {wait} s",
                code="too_many_requests",
                headers={"Retry-After": str(wait)},
            )
        self.num_open += 1
        self.metrics.open_requests.set(self.num_open)
        return Admitted(self, route, anyio.current_time())

    @property
    def _too_late(self) -> Refusal:
        return Refusal(
            408,
            f"the answer has taken more than {self.limits.seconds:g} s, the time that a request has here",
            code="timeout",
        )

    async def _body(
        self, request: Request, model: type[_F], read: Callable[..., _T], **more: Any
    ) -> tuple[_F, _T]:
        """The fields of a request, and what ``read`` says that they ask for; ``more`` are its keywords."""
        fields, num_bytes = await read_body(request, model, self.limits.body_bytes)
        if fields.model is not None and fields.model != self.name:
            raise Refusal(
                404, f"model is {fields.model!r}, expected {self.name!r}", "model", "model_not_found"
            )
        work = partial(read, self.engine, fields, self.limits, **more)
        if num_bytes <= SHORT_BYTES and (isinstance(fields, Scoring) or fields.response_format is None):
            return fields, work()
        # One that takes too long is left to itself: it counts as a reader until it is done.
        return fields, await anyio.to_thread.run_sync(work, limiter=self._readers, abandon_on_cancel=True)

    async def _while_there(self, request: Request, work: Callable[[], Awaitable[_T]]) -> _T:
        """The result of ``work``, unless the client goes before.

        Raises:
            ClientGone: it did.
        """
        found: list[_T] = []
        failed: list[Exception] = []
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                await until_gone(request.receive)
                group.cancel_scope.cancel()

            group.start_soon(watch)
            try:
                found.append(await work())
            except Exception as error:
                failed.append(error)
            group.cancel_scope.cancel()
        if failed:
            raise failed[0]
        if not found:
            raise ClientGone
        return found[0]

    # -- texts -------------------------------------------------------------------------------------------

    async def _completion(self, request: Request, admitted: Admitted) -> Response:
        fields, asked = await self._body(request, Completion, read_generated, draft=self.draft)
        echo: list[str] = []
        if fields.echo:
            tokenizer = self.engine.tokenizer
            echo = [tokenizer.decode(prompt) for prompt in asked.prompts[:: asked.n]]
        answer = CompletionAnswer(self.name, asked, self.names, fields, echo)
        return await self._generated(request, admitted, fields, asked, answer)

    async def _chat(self, request: Request, admitted: Admitted) -> Response:
        fields, asked = await self._body(request, Chat, read_generated, draft=self.draft)
        answer = ChatAnswer(self.name, asked, self.names, fields)
        return await self._generated(request, admitted, fields, asked, answer)

    async def _generated(
        self,
        request: Request,
        admitted: Admitted,
        fields: Completion | Chat,
        asked: Asked,
        answer: Answer,
    ) -> Response:
        streams = bool(fields.stream)
        job = self.driver.submit(asked.prompts, asked.options, streams=streams)
        admitted.jobs.append(job)
        if not streams:
            generations = await self._while_there(request, partial(self._all, job, fields))
            self.metrics.answered(generations, asked.n)
            return _json(answer.whole(generations))
        # A stream begins with its first token: what fails before has a status of its own.
        first = await self._while_there(request, partial(self._next, job, fields))
        self.metrics.first_token.observe(anyio.current_time() - admitted.begin)
        usage = fields.stream_options is not None and bool(fields.stream_options.include_usage)
        return EventStream(
            self._events(job, fields, asked, answer, first, usage),
            deadline=admitted.deadline,
            too_late=self._too_late.body,
            at_end=partial(admitted.leave, 200),
        )

    async def _next(self, job: Job, fields: Fields) -> Update:
        try:
            return await job.next()
        except Exception as error:
            raise _refusal(error, fields) from error

    async def _all(self, job: Job, fields: Fields) -> list[Generation]:
        """The whole answers of a job, in order."""
        found: dict[int, Generation] = {}
        while job.num_left:
            update = await self._next(job, fields)
            if update.generation is not None:
                found[update.sequence] = update.generation
        return [found[index] for index in sorted(found)]

    async def _events(
        self,
        job: Job,
        fields: Completion | Chat,
        asked: Asked,
        answer: Answer,
        update: Update,
        usage: bool,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a stream, from its first update on."""
        found: dict[int, Generation] = {}
        begun: set[int] = set()
        while True:
            choices = []
            if update.sequence not in begun:
                begun.add(update.sequence)
                if (choice := answer.begin(update.sequence)) is not None:
                    choices.append(choice)
            for choice in [*choices, *answer.delta(update)]:
                yield answer.chunk([choice], usage)
            if update.generation is not None:
                found[update.sequence] = update.generation
            if not job.num_left:
                break
            try:
                update = await self._next(job, fields)
            except Refusal as refusal:
                yield json.loads(refusal.body)
                return
        generations = [found[index] for index in range(len(asked.prompts))]
        self.metrics.answered(generations, asked.n)
        if usage:
            yield answer.last_chunk(generations)

    # -- scores ------------------------------------------------------------------------------------------

    async def _score(self, request: Request, admitted: Admitted) -> Response:
        fields, asked = await self._body(request, Scoring, read_scoring)
        job = self.driver.score(asked.texts, asked.labels)
        admitted.jobs.append(job)
        await self._while_there(request, partial(self._all, job, fields))
        scores = [_weights(own, bool(fields.apply_softmax)) for own in job.logprobs()]
        num_tokens = sum(map(len, asked.texts))
        usage = {"prompt_tokens": num_tokens, "completion_tokens": 0, "total_tokens": num_tokens}
        return _json({"object": "scoring", "model": self.name, "scores": scores, "usage": usage})


def _weights(logprobs: list[float], is_softmax: bool) -> list[float]:
    """The probabilities of labels among all tokens, or among each other."""
    if not is_softmax:
        return [math.exp(value) for value in logprobs]
    most = max(logprobs)
    found = [math.exp(value - most) for value in logprobs]
    return [value / sum(found) for value in found]


def _json(value: Any) -> Response:
    data = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return Response(data, media_type="application/json")


def _refusal(error: Exception, fields: Fields) -> Refusal:
    """What a request that has failed in the engine is answered with."""
    if isinstance(error, OutOfPages):
        return Refusal(400, f"the request does not fit into memory: {error}", code="out_of_pages")
    shaped = [name for name in ("response_format", "logit_bias") if getattr(fields, name, None) is not None]
    if isinstance(error, (ArgumentError, LogitsError)) and shaped:
        return Refusal(400, f"{' and '.join(shaped)} cannot be kept to: {error}", shaped[0])
    if isinstance(error, ArgumentError):
        return Refusal(400, str(error))
    _LOG.error("a request has failed", exc_info=error)
    kind = type(error).__name__
    said = str(error) if isinstance(error, HornbeamError) else "see the log of the server"
    return Refusal(500, f"{kind}: {said}", code="internal_error")
