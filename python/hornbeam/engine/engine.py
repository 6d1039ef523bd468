"""The engine: one model, one prefix tree, and all requests that are under way on it.

One :meth:`Engine.step` is one ragged forward pass for all of them: rows of prompts, and rows of decoding with
their drafts. Nobody steps an engine but those who wait for an answer: whoever holds the lock takes a step for
all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from hornbeam.engine.ambient import Ambient
from hornbeam.engine.attending import checked
from hornbeam.engine.beams import BeamRow, Beams
from hornbeam.engine.chat import answered, turns
from hornbeam.engine.checkpoint import Checkpoint
from hornbeam.engine.eviction import Keeper
from hornbeam.engine.host import Host, HostKeywords
from hornbeam.engine.likelihood import ScoredText, scored_groups
from hornbeam.engine.lockstep import InLockstep, Lockstep
from hornbeam.engine.options import Keywords, Options
from hornbeam.engine.processors import check_shared
from hornbeam.engine.random_key import RandomKey
from hornbeam.engine.reading import Reading, readings
from hornbeam.engine.request import Call, Request
from hornbeam.engine.requests import Requests
from hornbeam.engine.scheduling import Chunks, schedule
from hornbeam.engine.stepping import take_step
from hornbeam.errors import ArgumentError, StateError
from hornbeam.prompt import end_tokens, predicted_ids, prompts_of, token_ids
from hornbeam.results import Finish, Likelihood, Piece
from hornbeam.speculation.declarations import lms_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Engine", "Event"]

_T = TypeVar("_T")
_INSTEAD = "hb.EachPrompt(factory), which makes one for each, or "


class Event(NamedTuple):
    """What a step did for one request."""

    request: Request
    """Which one."""
    pieces: list[Piece]
    """The tokens that it emitted."""
    finish_reason: Finish | None
    """Why it has ended, if it has."""
    error: BaseException | None
    """What it failed with, if it has."""


class Engine(Requests):
    """Decodes any number of requests together, whatever their settings, on one model.

    Requests are submitted, forked, paused, resumed and cancelled at any time, from any thread. Each gets
    the text that it gets alone, up to the model's own floating-point noise.

    Args:
        model: a loaded ``transformers`` causal LM. It stays the caller's.
        tokenizer: its tokenizer; may be left out where prompts are token ids.
        options: as :class:`hornbeam.LM` has them.

    Raises:
        UnsupportedModel: the architecture cannot be driven over pages; the message names the reason.
        MissingExtra: transformers is not installed.
        CudaError: the model is on a GPU on which no kernel can run; the message has the reason.
    """

    def __init__(self, model: Any, tokenizer: Any = None, **options: Unpack[HostKeywords]) -> None:
        super().__init__(model, tokenizer, **options)
        self.checkpoint = Checkpoint(self.model)
        self.chunks = Chunks()

    # -- requests ----------------------------------------------------------------------------------------

    def submit(self, prompt: Any, *, owner: object = None, **options: Unpack[Keywords]) -> Request:
        """Adds a request; it begins with the next step.

        Args:
            prompt: raw text, token ids, or chat messages: one prompt.
            owner: the request ends with this object at the latest, if one is given.
            options: as :meth:`hornbeam.LM.generate` has them.

        Raises:
            ArgumentError: as :meth:`hornbeam.LM.generate` does.
        """
        checked = self.options_of(**options)

        def read() -> list[list[int]]:
            prompts, many = prompts_of(self, prompt)
            if many and len(prompts) > 1:
                raise ArgumentError(f"submit takes one prompt, got {len(prompts)}")
            return prompts

        [request] = self.submit_all(read, checked, owner=owner)
        if isinstance(prompt, (list, tuple)) and isinstance(prompt[0], Mapping):
            request.messages = list(prompt)
        return request

    def options_of(self, **options: Unpack[Keywords]) -> Options:
        """The keywords of a call, ``options`` of :meth:`submit`, checked."""
        given: dict[str, Any] = dict(options)
        ends = end_tokens(self.model, given.pop("eos_token_id", None), self.tokenizer)
        given["prediction"] = predicted_ids(self, given.pop("prediction", None))
        given |= {"has_tokenizer": self.tokenizer is not None, "checkpoint": self.checkpoint}
        return checked(self.runner, Options.of(eos_token_ids=ends, **given))

    def submit_all(
        self,
        prompts: Sequence[list[int]] | Callable[[], Sequence[list[int]]],
        options: Options,
        *,
        streams: bool = True,
        releases: bool = False,
        owner: object = None,
        before: Sequence[Sequence[int]] | None = None,
        lockstep: Lockstep | None = None,
        beams: Beams | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[Request]:
        """Adds the prompts of one call. Equal ones get different random numbers; a prompt alone and the same
        prompt beside others get the same.

        Args:
            prompts: token ids, or what reads them on the model as it is.
            options: of all of them.
            streams: whether their text is wanted as it comes.
            releases: whether a branch is released as soon as its request is done.
            owner: they end with this object, if it is given.
            before: of each prompt the padding that processors and criteria see before it.
            lockstep: what they are asked about together, if they step together. Without drafts.
            beams: what the one prompt is the first row of, in a search over tokens. Without drafts.
            numbers: which random sequence each is, in place of the numbers of equal prompts.
        """
        make: Callable[..., Request] = Request
        if lockstep is not None:
            options = replace(options, lockstep=lockstep, draft=None)
            make = partial(InLockstep, lockstep=lockstep)
        if beams is not None:
            options = replace(options, beams=beams, draft=None)
            make = partial(BeamRow, beams=beams)

        def work() -> list[Request]:
            self.begin_requests(lms_of(options.draft))
            ambient = self.ambient_now()
            call, seen = object(), dict[tuple[int, ...], int]()
            indices = self._free_indices()
            requests: list[Request] = []
            texts = prompts() if callable(prompts) else prompts
            if len(texts) > 1:
                check_shared(options.own_processor, f"serve {len(texts)} sequences", _INSTEAD)
            for place, prompt in enumerate(texts):
                if numbers is None:
                    number = seen.get(tuple(prompt), 0)
                    seen[tuple(prompt)] = number + 1
                else:
                    number = numbers[place]
                request = make(
                    self,
                    next(indices),
                    RandomKey(number),
                    prompt,
                    self.checkpoint.options_of(options, place, prompt),
                    ambient=ambient,
                    place=place,
                    before=() if before is None else before[place],
                    call=call,
                    streams=streams,
                    releases=releases,
                    owner=owner,
                )
                requests.append(request)
            if options.keep is not None:
                keeper = Keeper(self, options.keep)
                for request in requests:
                    request.keeper = keeper
            live = [request for request in requests if not request.done]
            if live:
                self.group_of(live[0])  # what it refuses is refused here
            if options.trace is not None:
                for request in live:
                    options.trace.first(request)
            for request in live:
                self.group_of(request).start(request)
            self._requests.extend(live)
            return requests

        return self.exclusively(work, [lm.engine for lm in lms_of(options.draft)])

    def read(self, texts: Sequence[list[int]], **asked: Any) -> list[Reading]:
        """Adds requests that read ``texts`` to their end, see :func:`hornbeam.engine.reading.readings`, whose
        keywords ``asked`` are. They hold their branches until :meth:`close_all`."""

        def work() -> list[Reading]:
            self._sweep()
            self.begin_requests()
            self._requests.extend(found := readings(self, self._free_indices(), texts, **asked))
            return found

        return self.exclusively(work)

    def score(
        self, read: Callable[[], tuple[Sequence[list[int]], Sequence[list[list[int]]]]]
    ) -> list[list[Likelihood]]:
        """What :meth:`hornbeam.LM.score` does: of each prompt's continuations, which ``read`` gives as token
        ids on the model as it is."""
        owner = Call()
        groups = self.submit_scored(read, owner=owner)
        requests = list(dict.fromkeys(text.request for own in groups for text in own))
        try:
            self.run(requests)
        finally:
            self.close_all(requests)
        return [[text.likelihood() for text in own] for own in groups]

    def submit_scored(
        self,
        read: Callable[[], tuple[Sequence[list[int]], Sequence[list[list[int]]]]],
        *,
        owner: object = None,
    ) -> list[list[ScoredText]]:
        """Adds what :meth:`score` waits for, with its argument ``read``. It ends with ``owner`` at the
        latest, if one is given."""

        def work() -> list[list[ScoredText]]:
            self.begin_requests()
            ambient = self.ambient_now()
            options: dict[str, Any] = {"ambient": ambient, "call": object(), "releases": True, "owner": owner}
            found = scored_groups(self, self._free_indices(), *read(), **options)
            self._requests.extend(dict.fromkeys(text.request for own in found for text in own))
            return found

        return self.exclusively(work)

    def _engines(self) -> list[Host]:
        """This engine and those of its requests' drafts, in the order in which they are locked."""
        drafts = [request.options.draft for request in list(self._requests)]
        others = {lm.engine for draft in drafts if draft is not None for lm in lms_of(draft)}
        return sorted({self, *others}, key=id) if others else [self]

    def step(self) -> list[Event]:
        """One forward pass for all requests that can go on: none if nobody can.

        A request that fails, by its own processor or its own draft, leaves the others going on. An
        exception of the model ends all requests of the step.

        Returns:
            What became of each request of the step.

        Raises:
            StateError: it is called from inside of a step.
        """
        return self._locked(self._step)

    def _step(self) -> list[Event]:
        if self._is_stepping:
            raise StateError("the engine is within a step, expected a call between two steps")
        self._mend()
        self.notice()
        if self._served_changes != self._seen_changes:
            self._start_again()
        active = self._schedulable()
        if not active:
            return []
        self.runner.switch.use(active[0].kernels)
        self._is_stepping = self._is_dirty = True
        try:
            ambient = active[0].ambient
            if ambient == Ambient.now(ambient.device_type):
                touched = take_step(self, schedule(self, active))
            else:
                with ambient.applied():
                    touched = take_step(self, schedule(self, active))
        finally:
            self._is_stepping = False
        self._is_dirty = False
        events = [Event(r, pieces, r.finish, r.error) for r, pieces in touched]
        self._sweep()
        return events

    def _schedulable(self) -> list[Request]:
        """Those that can take part in the next step."""
        self._sweep()
        ready = [request for request in self._requests if not request.is_paused]
        return self.of_one_choice([request for request in ready if request.ambient == ready[0].ambient])

    def drive(self, request: Request) -> None:
        """Takes a step, unless ``request`` is done by the time that it is this thread's turn.

        Raises:
            StateError: no step can do anything for the request.
        """

        def turn() -> None:
            if not request.done and not self._step() and not request.done and not request.is_paused:
                raise StateError("the engine can do nothing for the request")

        me = threading.get_ident()
        self._queue.append(me)
        try:
            self._locked(turn)
        finally:
            self._queue.remove(me)
        if self._queue:
            time.sleep(5e-5)  # whoever waits is served next

    def run(self, requests: Sequence[Request], after: Callable[[], None] = lambda: None) -> None:
        """Takes steps until all ``requests`` are done; calls ``after`` each, and once when they are."""
        while (waiting := next((request for request in requests if not request.done), None)) is not None:
            self.drive(waiting)
            after()
        after()  # another thread's step may have been the last

    def fork(self, request: Request, count: int) -> list[Request]:
        """What :meth:`Request.fork` does, with ``request`` and ``count``."""
        if count < 1:
            raise ArgumentError(f"count is {count}, expected at least 1")
        with self._lock:
            self._check_between_steps()
            if self._is_dirty:
                self._mend()
            if request.done or request.is_paused:
                raise StateError("a request that is done or paused cannot be forked")
            check_shared(request.options.processor, "be forked")
            own, *keys = request.key.fork(count)
            group = self.group_of(request)
            others: list[Request] = []
            indices = self._free_indices()
            for key in keys:
                branch = None if request.is_closed else request.branch.fork()
                child = request.continued(next(indices), key, branch)
                others.append(child)
                if request.keeper is not None:
                    request.keeper.fork(request, child)
                # At once: a group that no request names is let go of.
                child.group = group
                group.fork(request, child)
            first = request.successor(own)
            at = self._requests.index(request)
            self._requests[at : at + 1] = [first, *others]
            if request.keeper is not None:
                request.keeper.hand_on(request, first)
            request.close_for(first, StateError("the request was closed by fork()"))
            return [first, *others]

    def extend(self, request: Request, more: Any, max_new_tokens: int | None) -> None:
        """What :meth:`Request.extend` does, with ``request``, ``more`` and ``max_new_tokens``."""

        def work() -> None:
            if not request.done or request.error is not None or request.is_closed:
                raise StateError("extend() needs a request that is done, did not fail and was not released")
            if request.options.echo:
                raise ArgumentError("the request has echo=True, which cannot be had of a prompt that goes on")
            check_shared(request.options.own_processor, "go on with another answer", _INSTEAD)
            is_outdated = request.served_changes != self._seen_changes
            if is_outdated and request.keeper is not None:
                raise StateError(
                    "the model has changed since the request with keep= ended, and what its cache has let go "
                    "cannot be computed again"
                )
            is_chat = isinstance(more, (list, tuple)) and more and isinstance(more[0], Mapping)
            fresh = turns(self.tokenizer, request, more) if is_chat else self._more(more)
            total = len(request.prompt) + len(request.output) + len(fresh)
            if total > self.max_positions:
                raise ArgumentError(
                    f"prompt, answer and what follows have {total} tokens, expected at most the model's "
                    f"{self.max_positions} positions"
                )
            options = request.options
            if max_new_tokens is not None:
                options = replace(options, max_new_tokens=max_new_tokens)
            if is_chat:
                said = answered(request.messages or [], request.generation().text)
                request.messages = [*said, *more]
            if is_outdated:
                request.close()  # its keys are of the model before: the text is read anew
            whole = [*request.prompt, *request.output, *fresh]
            request.prolong(fresh, self.checkpoint.options_of(options, request.place, whole))
            request.index = next(self._free_indices())
            if request.keeper is not None:
                request.keeper.prolong(request)
            self._requests.append(request)
            self.group_of(request).start(request)

        self.exclusively(work, [lm.engine for lm in lms_of(request.options.draft)])

    def _more(self, more: Any) -> list[int]:
        return token_ids(self, more, "more", special=False)
