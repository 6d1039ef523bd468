"""The engine: one model, one prefix tree, and all requests that are under way on it.

One :meth:`Engine.step` is one ragged forward pass for all of them: rows of prompts, and rows of decoding with
their drafts. Nobody steps an engine but those who wait for an answer: whoever holds the lock takes a step for
all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch

from hornbeam.engine.ambient import Ambient
from hornbeam.engine.chat import turns
from hornbeam.engine.drafting import Drafting
from hornbeam.engine.eviction import Keeper
from hornbeam.engine.host import Host
from hornbeam.engine.options import Keywords, Options
from hornbeam.engine.random_key import RandomKey
from hornbeam.engine.request import Request
from hornbeam.engine.scheduling import Chunks, schedule
from hornbeam.engine.stepping import take_step
from hornbeam.errors import ArgumentError, StateError
from hornbeam.prompt import end_tokens, prompts_of, token_ids
from hornbeam.results import Finish, Piece

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Engine", "Event"]

_T = TypeVar("_T")


class Event(NamedTuple):
    """What a step did for one request."""

    request: Request
    pieces: list[Piece]
    """The tokens that it emitted."""
    finish_reason: Finish | None
    """Why it has ended, if it has."""
    error: BaseException | None
    """What it failed with, if it has."""


class Engine(Host):
    """Decodes any number of requests together, whatever their settings, on one model.

    Requests are submitted, forked, paused, resumed and cancelled at any time, from any thread. Each gets
    the text that it gets alone, up to the model's own floating-point noise.

    Args:
        model: a loaded ``transformers`` causal LM. It stays the caller's.
        tokenizer: its tokenizer; may be left out where prompts are token ids.
        kv_dtype: element type of the pages; the model's own by default.
        max_kv_bytes: hard limit of the page pool; see :class:`hornbeam.LM`.
        page_tokens: slots of a page.
        prefill_rows: rows of a prompt that one forward pass computes at most.
        cuda_graphs: capture decoding steps as CUDA graphs, see docs/cuda.md.

    Raises:
        UnsupportedModel: the architecture cannot be driven over pages; the message names the reason.
        MissingExtra: transformers is not installed.
        CudaError: the model is on a GPU on which no kernel can run; the message has the reason.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        kv_dtype: torch.dtype | None = None,
        max_kv_bytes: int | None = None,
        page_tokens: int = 16,
        prefill_rows: int = 8192,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__(
            model,
            tokenizer,
            kv_dtype=kv_dtype,
            max_kv_bytes=max_kv_bytes,
            page_tokens=page_tokens,
            prefill_rows=prefill_rows,
            cuda_graphs=cuda_graphs,
        )
        self._served_changes = self._seen_changes  # that the requests under way are computed with
        self._requests: list[Request] = []  # that are not done, in the order of their submission
        self._groups: dict[Any, Drafting] = {}
        self.chunks = Chunks()
        self.num_ended = 0  # requests that have ended so far

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
            if many:
                raise ArgumentError("submit takes one prompt, got a list")
            return prompts

        [request] = self.submit_all(read, checked, owner=owner)
        if isinstance(prompt, (list, tuple)) and isinstance(prompt[0], Mapping):
            request.messages = list(prompt)
        return request

    def options_of(self, **options: Unpack[Keywords]) -> Options:
        """The keywords of a call, checked."""
        given: dict[str, Any] = dict(options)
        ends = end_tokens(self.model, given.pop("eos_token_id", None))
        return Options.of(has_tokenizer=self.tokenizer is not None, eos_token_ids=ends, **given)

    def submit_all(
        self,
        prompts: Sequence[list[int]] | Callable[[], Sequence[list[int]]],
        options: Options,
        *,
        streams: bool = True,
        releases: bool = False,
        owner: object = None,
    ) -> list[Request]:
        """Adds the prompts of one call. Equal ones get different random numbers; a prompt alone and the same
        prompt beside others get the same.

        Args:
            prompts: token ids, or what reads them on the model as it is.
            options: of all of them.
            streams: whether their text is wanted as it comes.
            releases: whether a branch is released as soon as its request is done.
            owner: they end with this object, if it is given.
        """

        def work() -> list[Request]:
            if options.draft is not None and options.length.needs_costs and not self._calibrated:
                self._measure_costs()
            ambient = Ambient.now(self.runner.shape.device.type)
            call, seen = object(), dict[tuple[int, ...], int]()
            requests: list[Request] = []
            for place, prompt in enumerate(prompts() if callable(prompts) else prompts):
                number = seen.get(tuple(prompt), 0)
                seen[tuple(prompt)] = number + 1
                request = Request(
                    self,
                    self._free_index(requests),
                    RandomKey(number),
                    prompt,
                    options,
                    ambient=ambient,
                    place=place,
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

        return self.exclusively(work, [lm.engine for lm in getattr(options.draft, "lms", ())])

    def _free_index(self, taken: Iterable[Request] = ()) -> int:
        """The least number that no request has."""
        used = {request.index for request in [*self._requests, *taken]}
        return next(index for index in range(len(used) + 1) if index not in used)

    def is_alone(self, request: Request) -> bool:
        """Whether no other request can end before this one goes on."""
        return all(
            other is request or other.is_paused or other.waits_for is not None for other in self.requests
        )

    def age(self, request: Request) -> int:
        """Its place in the order of submission; the youngest has the greatest."""
        return next((place for place, other in enumerate(self._requests) if other is request), -1)

    @property
    def requests(self) -> list[Request]:
        """Those that are under way, in the order of their submission."""
        return [request for request in self._requests if not request.done]

    def _engines(self) -> list[Host]:
        """This engine and those of its requests' drafts, in the order in which they are locked."""
        drafts = [request.options.draft for request in list(self._requests)]
        others = {lm.engine for draft in drafts for lm in getattr(draft, "lms", ())}
        return sorted({self, *others}, key=id)

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
        self._is_stepping = self._is_dirty = True
        try:
            with active[0].ambient.applied():
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
        return [request for request in ready if request.ambient == ready[0].ambient]

    def _sweep(self) -> None:
        """Lets go of requests that are done, and of those whose call has gone."""
        for request in list(self._requests):
            if request.is_orphan:
                self.close(request)
            elif request.done:
                self._retire(request)

    def drive(self, request: Request) -> None:
        """Takes a step, unless the request is done by the time that it is this thread's turn.

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
        """Takes steps until these requests are done; calls ``after`` each, and once when they are."""
        while (waiting := next((request for request in requests if not request.done), None)) is not None:
            self.drive(waiting)
            after()
        after()  # another thread's step may have been the last

    def fork(self, request: Request, count: int) -> list[Request]:
        """What :meth:`Request.fork` does."""
        if count < 1:
            raise ArgumentError(f"count is {count}, expected at least 1")
        with self.between_steps():
            self._mend()
            if request.done or request.is_paused:
                raise StateError("a request that is done or paused cannot be forked")
            children: list[Request] = []
            for key in request.key.fork(count):
                branch = None if request.is_closed else request.branch.fork()
                child = request.continued(self._free_index(children), key, branch)
                children.append(child)
            at = self._requests.index(request)
            group = self.group_of(request)
            for child in children:
                if request.keeper is not None:
                    request.keeper.fork(request, child)
                group.fork(child)
            self._requests[at : at + 1] = children
            request.error = StateError("the request was closed by fork()")
            self._retire(request)
            request.close()
            return children

    def extend(self, request: Request, more: Any, max_new_tokens: int | None) -> None:
        """What :meth:`Request.extend` does."""

        def work() -> None:
            if not request.done or request.error is not None or request.is_closed:
                raise StateError("extend() needs a request that is done, did not fail and was not released")
            if request.options.echo:
                raise ArgumentError("the request has echo=True, which cannot be had of a prompt that goes on")
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
                answer = {"role": "assistant", "content": request.generation().text}
                request.messages = [*(request.messages or []), answer, *more]
            if is_outdated:
                request.close()  # its keys are of the model before: the text is read anew
            request.prolong(fresh, options)
            before, request.index = request.index, self._free_index()
            if request.keeper is not None:
                request.keeper.prolong(request, before)
            self._requests.append(request)
            self.group_of(request).start(request)

        self.exclusively(work, [lm.engine for lm in getattr(request.options.draft, "lms", ())])

    def _more(self, more: Any) -> list[int]:
        return token_ids(self, more, "more", special=False)

    def close(self, request: Request) -> None:
        """Ends a request if it is under way, and lets go of all that it holds."""
        if not request.done:
            request.interrupt()
        self._retire(request)
        request.close()
        if request.keeper is not None:
            request.keeper.forget(request)

    def _retire(self, request: Request) -> None:
        """Takes a request that has ended out of what is under way."""
        if request not in self._requests:
            return
        self._requests.remove(request)
        request.served_changes = self._served_changes
        self.num_ended += 1
        group, request.group = request.group, None
        if group is not None:
            group.finish(request)
        if request.releases or request.error is not None:
            request.close()
            if request.keeper is not None:
                request.keeper.forget(request)
        live = {id(other.group) for other in self._requests}
        self._groups = {key: group for key, group in self._groups.items() if id(group) in live}

    def group_of(self, request: Request) -> Drafting:
        """The draft source that serves a request."""
        if request.group is None:
            key = request.options.drafting_key
            if key not in self._groups:
                self._groups[key] = Drafting(self, request.options)
            request.group = self._groups[key]
        return request.group

    def reusable(self, request: Request) -> int:
        """How many tokens of a text may come from the cache. A recipe wants to see some queries, and the
        logits of a prompt come from its rows; a draft source makes do with what is computed."""
        if not request.ambient.is_exact or (request.options.echo and not request.output):
            return 0
        if request.keeper is None:
            return request.num_committed
        return request.keeper.reusable(len(request.prompt))

    # -- after an interrupt --------------------------------------------------------------------------------

    def interrupt(self, requests: Sequence[Request]) -> None:
        """Ends these requests with what there is, and what an interrupted step has left half-way."""
        with self._lock:
            for request in requests:
                request.interrupt()
            if not self._is_stepping:
                self._mend()

    def close_all(self, requests: Sequence[Request]) -> None:
        """Closes what is still under way, or still held, of a call that ends, while no other thread is within
        a step."""
        left = [request for request in requests if not (request.done and request.is_closed)]
        if left:
            with self._lock:
                for request in left:
                    self.close(request)

    def _mend(self) -> None:
        """Ends what a step that was interrupted has left half-way: what was committed is emitted, what was
        not is taken back, and draft sources begin anew. May be interrupted, and is done again then."""
        if not self._is_dirty:
            return
        self._recover()
        for request in list(self._requests):
            self.restore(request)
            if request.keeper is not None and not request.done and request.keeper.is_broken(request):
                request.fail(StateError("a step was interrupted while the cache of the request was reduced"))
        self._sweep()
        self.renew_groups()
        self._is_dirty = False

    def restore(self, request: Request) -> list[Piece]:
        """Puts a request where its branch is, after a step that did not come to its end: what was committed
        is emitted, and returned; what was not is taken back."""
        pieces: list[Piece] = []
        if request.done or request.is_closed:
            return pieces
        length = request.branch.length
        if request.fresh is not None and length == request.fresh[1]:
            pieces = request.emit()
        else:
            request.take_back()
        if request.is_read and length != request.num_committed:
            request.close()  # read again, from what the tree holds
        elif not request.is_read and length == request.num_committed:
            if request.output:
                request.is_read = True
            else:
                request.close()  # the logits after its prompt are gone
        return pieces

    def renew_groups(self) -> None:
        """Draft sources begin anew, with what there is of every text."""
        for request in self._requests:
            group, request.group = request.group, None
            if group is not None:
                group.finish(request)
        self._groups.clear()
        for request in self._requests:
            if not request.done:
                self.group_of(request).start(request)

    # -- the model as it is now ----------------------------------------------------------------------------

    def _start_again(self) -> None:
        """Goes on with a model that has changed: it reads anew what there is of every text."""
        keepers: dict[int, Keeper] = {}
        for request in list(self._requests):
            if request.keeper is not None and (request.output or request.stats.reductions):
                request.fail(
                    StateError(
                        "the model changed while a text with keep= was under way, and what its cache has let "
                        "go cannot be computed again"
                    )
                )
                continue
            request.close()
            if request.keeper is not None:
                fresh = Keeper(self, request.options.keep)
                request.keeper = keepers.setdefault(id(request.keeper), fresh)
        self._sweep()
        self.renew_groups()
        self._served_changes = self._seen_changes
