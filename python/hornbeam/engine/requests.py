"""The requests that are under way on one model: who they are, what drafts for them, and how they end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from hornbeam.engine.drafting import Drafting
from hornbeam.engine.eviction import Keeper
from hornbeam.engine.host import Host, HostKeywords
from hornbeam.engine.random_key import RandomKey
from hornbeam.engine.request import Request
from hornbeam.engine.request_state import RequestState
from hornbeam.errors import StateError
from hornbeam.results import Piece
from hornbeam.speculation.declarations import lms_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hornbeam.engine.checkpoint import Checkpoint
    from hornbeam.engine.options import Options
    from hornbeam.machine.kernels import Kernels
    from hornbeam.speculation.protocols import HasEngine

__all__ = ["Requests"]

#: An engine that is never idle takes up what was learned of kernels as often.
RENEWAL_SECONDS = 600.0


class Requests(Host):
    """A host and its requests. Takes no step: :class:`hornbeam.Engine` does."""

    checkpoint: Checkpoint
    """What the model's files ask of decoding."""

    def __init__(self, model: Any, tokenizer: Any = None, **options: Unpack[HostKeywords]) -> None:
        super().__init__(model, tokenizer, **options)
        self._since = 0.0  # when requests took up other kernels last
        self._served_kernels: Kernels | None = None  # those of the last step
        self._served_changes = self._seen_changes  # that the requests under way are computed with
        self._requests: list[Request] = []  # that are not done, in the order of their submission
        self._groups: dict[Any, Drafting] = {}
        self.num_ended = 0  # requests that have ended so far

    def of_one_choice(self, ready: list[Request]) -> list[Request]:
        """Those of some requests that have the same kernels: a step has one choice of them. Where there are
        two, they take turns."""
        able = [request for request in ready if not request.is_put_off(self)] or ready
        others = (request.kernels for request in able if request.kernels is not self._served_kernels)
        self._served_kernels = next(others, self._served_kernels)
        return [request for request in ready if request.kernels is self._served_kernels]

    def begin_requests(self, drafts: Sequence[HasEngine] = ()) -> None:
        """Called before requests begin, with the models of their ``drafts``: they keep the kernels that are
        chosen now. Steps are of one choice each, so that others are taken up between requests; where those
        never end together, every :data:`RENEWAL_SECONDS`, and not while two choices are under way."""
        for lm in drafts:
            lm.engine.begin_requests()
        under_way = self.requests
        if under_way:
            are_mixed = any(request.kernels is not self.kernels for request in under_way)
            if are_mixed or self.profile is None or time.monotonic() - self._since < RENEWAL_SECONDS:
                return
            self.kernels = self.profile.kernels
        else:
            self.take_up()
        self._since = time.monotonic()

    def _free_indices(self) -> Iterator[int]:
        """The numbers that no request has, ascending."""
        used = {request.index for request in self._requests}
        return (index for index in count() if index not in used)

    def join(self, request: Request) -> None:
        """Adds a request that goes on from one under way, in the midst of a step, unless it is there."""
        if request not in self._requests:
            request.index = next(self._free_indices())
            self._requests.append(request)

    def is_alone(self, request: RequestState) -> bool:
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

    def _sweep(self) -> None:
        """Lets go of requests that are done, and of those whose call has gone."""
        for request in list(self._requests):
            if request.is_orphan:
                self.close(request)
            elif request.done:
                self._retire(request)

    def close(self, request: Request, keep: bool = True) -> None:
        """Ends a request if it is under way, and lets go of all that it holds; with ``keep`` it stays
        cached."""
        if not request.done:
            request.interrupt()
        self._retire(request)
        request.close(keep)
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
        self.keep_profile()

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
        logits of a prompt come from its rows; a draft source makes do with what is computed. A prompt that is
        read sparsely is read whole: its keys shall not depend on what others have left in the cache."""
        if not request.ambient.is_exact or request.options.prefill is not None:
            return 0
        if request.keeper is None or request.num_reusable == 0:
            return request.num_reusable
        return request.keeper.reusable(len(request.prompt))

    # -- after an interrupt --------------------------------------------------------------------------------

    def changes_seen(self) -> int:
        """How often the model has changed so far, looked at anew."""
        return self.exclusively(lambda: self._seen_changes)

    def go_on_from(
        self, parents: Sequence[Request], numbers: Sequence[int], options: Options
    ) -> list[Request]:
        """One request for each of ``parents``, which have ended and hold their branches: it goes on from
        there with random numbers of its own, reduced or not as its parent is. What a parent wrote is the end
        of its prompt."""
        found: list[Request] = []

        def work() -> None:
            indices = self._free_indices()
            for parent, number in zip(parents, numbers, strict=True):
                is_outdated = parent.served_changes != self._seen_changes
                if is_outdated and parent.keeper is not None:
                    raise StateError(
                        "the model has changed since a text with keep= was written, and what its cache has "
                        "let go cannot be computed again"
                    )
                if parent.keeper is not None:
                    parent.keeper.catch_up(parent)
                    if parent.error is not None:
                        raise parent.error
                branch = None if is_outdated else parent.branch.fork()
                child = parent.continued(next(indices), RandomKey(number), branch)
                found.append(child)
                if parent.keeper is not None:
                    parent.keeper.fork(parent, child)
                whole = [*parent.prompt, *parent.output]
                child.prolong([], self.checkpoint.options_of(options, parent.place, whole))
                self._requests.append(child)
                self.group_of(child).start(child)

        try:
            self.exclusively(work, [lm.engine for lm in lms_of(options.draft)])
        except BaseException:
            self.close_all(found)
            raise
        return found

    def interrupt(self, requests: Sequence[Request]) -> None:
        """Ends these requests with what there is, and what an interrupted step has left half-way."""
        with self._lock:
            for request in requests:
                request.interrupt()
            if not self._is_stepping:
                self._mend()

    def close_all(self, requests: Sequence[Request], keep: bool = True) -> None:
        """Closes what is still under way, or still held, of a call that ends, while no other thread is within
        a step. With ``keep`` it stays cached."""
        left = [request for request in requests if not (request.done and request.is_closed)]
        if left:
            with self._lock:
                for request in left:
                    self.close(request, keep)

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
            request.restored()
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
