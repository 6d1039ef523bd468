"""A request, as its caller sees it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from hornbeam.engine.request_state import UNLIMITED, RequestState
from hornbeam.errors import StateError
from hornbeam.integers import whole_number
from hornbeam.results import Chunk, Generation

__all__ = ["Call", "Request"]


class Call:
    """What the requests of one call end with, at the latest."""


class Request(RequestState):
    """One text on its way. Made by :meth:`hornbeam.Engine.submit`, :meth:`fork` and :meth:`extend`.

    Attributes:
        prompt: token ids. Not to be changed.
        output: the tokens emitted so far. Not to be changed.
        error: what made it fail, or None.
    """

    def result(self) -> Generation:
        """The answer; steps the engine until it is there, unless another thread does.

        Raises:
            StateError: the request is paused, or was closed by :meth:`fork`.
            BaseException: whatever the request failed with.
        """
        while not self.done:
            if self.is_paused:
                raise StateError("the request is paused, expected resume() before its result")
            self.engine.drive(self)
        if self.error is not None:
            raise self.error
        return self.generation()

    def pause(self, at: int | None = None, *, release: bool = False) -> None:
        """Takes no part in steps until :meth:`resume`.

        Args:
            at: goes on until it has emitted so many tokens, and emits none beyond. At once without it.
            release: lets go of its branch while it is paused, if what it holds can be read anew: it stays
                cached as long as there is room. Otherwise the branch stays.

        Raises:
            StateError: it is done; or ``release`` is given and it is not at ``at`` tokens yet.
        """
        if at is not None:
            at = whole_number(at, "at")
        with self.engine.between_steps():
            self._check_open()
            is_there = at is None or len(self.output) >= at
            if release and not is_there:
                raise StateError(
                    f"release is True for a request that goes on to {at} tokens, expected one that has them"
                )
            self.pauses_at = UNLIMITED if at is None else at
            self.is_paused = is_there
            if release and self.can_wait:
                self.take_back()
                self.close()

    def resume(self) -> None:
        """Takes part in steps again, with no end but its own."""
        with self.engine.between_steps():
            self._check_open()
            self.is_paused, self.pauses_at = False, UNLIMITED

    def cancel(self) -> None:
        """Ends it with what there is, ``finish_reason == "cancelled"``, and lets go of its branch. Does
        nothing once it is done."""
        with self.engine.between_steps():
            if not self.done:
                self._ending = ("cancelled", len(self.output))
            self.engine.close(self)

    def release(self) -> None:
        """Lets go of the branch of a finished request: its tokens stay cached. It cannot be extended then.

        Raises:
            StateError: it is not done.
        """
        with self.engine.between_steps():
            if not self.done:
                raise StateError("the request is not done, expected cancel() or result() before release()")
            self.engine.close(self)

    def fork(self, count: int = 2) -> list[Request]:
        """``count`` requests that go on from here, each on its own; closes this one.

        Child 0 goes on with the random numbers of this request, each other has numbers of its own. Takes
        the same time for any number of tokens. What this request emitted and :meth:`chunks` has not shown yet
        is shown by child 0 alone.

        Raises:
            StateError: the request is done or paused.
        """
        return self.engine.fork(self, count)

    def extend(self, more: Any, *, max_new_tokens: int | None = None) -> Request:
        """Goes on from a finished request with more of its prompt.

        What its cache keeps is gone on with, reduced or not.

        Args:
            more: token ids or text, which follow the output; or chat messages, which follow those that the
                request was submitted with and its answer.
            max_new_tokens: of the new answer; that of this request by default.

        Returns:
            This request, which is under way again: :meth:`result` is the new answer.

        Raises:
            StateError: it is not done, failed, or was released; or the model has changed since, and what the
                cache of a request with ``keep=`` has let go cannot be computed again.
            ArgumentError: it was submitted with ``echo=``, which is of a prompt that is read whole; or
                prompt, answer and ``more`` are longer than the model's context.
        """
        self.engine.extend(self, more, max_new_tokens)
        return self

    def chunks(self) -> Iterator[Chunk]:
        """What became certain since the last call, in order; a generator that ends with what there is."""
        while self.unread:
            before, pieces = self.unread.popleft()
            if before < self._num_shown:
                continue  # emitted once more after an interrupt
            self._num_shown = before + len(pieces)
            for source, run in groupby(pieces, key=lambda piece: piece.source):
                shown = list(run)
                text = "".join(piece.text for piece in shown)
                yield Chunk(text, [piece.token for piece in shown], source)

    def _check_open(self) -> None:
        if self.done:
            raise StateError("the request is done")
