"""What the forks of a request have in common, and what each has of its own."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from hornbeam.engine.asked import Asked
from hornbeam.results import Piece, Stats, TokenLogprob
from hornbeam.text import twin

if TYPE_CHECKING:
    from typing_extensions import Self

    from hornbeam.cache.branch import Branch
    from hornbeam.engine.drafting import Drafting
    from hornbeam.engine.eviction.keeper import Keeper
    from hornbeam.engine.options import Options
    from hornbeam.engine.random_key import RandomKey

__all__ = ["SERIALS", "UNLIMITED", "Forkable"]

#: Tokens that a draft may have where nothing limits it.
UNLIMITED = 1 << 30
SERIALS = itertools.count()
_COPYING = threading.Lock()


class Forkable:
    """Of a request what forks are about.

    A fork takes place between two steps, when what both read lies in no cache of the processor: the less is
    read and made there the better. What forks have in common is copied when it is first looked at.
    """

    # What most requests never change is kept here: a fork copies all that a request has of its own.
    error: BaseException | None = None
    messages: list[Any] | None = None  # the chat that the prompt is
    keeper: Keeper | None = None  # runs the recipe of ``keep=``, if there is one
    is_paused, pauses_at = False, UNLIMITED  # now, and at so many tokens of the output
    num_matched = 0  # tokens that the tree held when the branch was opened
    goes_on = False  # whether the prompt ends with what it, or another, has written
    draft_room = UNLIMITED  # tokens that a draft may have
    #: Slots left on the page that it ends on, and the reductions at which they were; for sparse decoding.
    tail = (0, 0)
    served_changes = -1  # how often the model had changed when it ended
    waits_for: int | None = None  # the count of ended requests at which it was put off
    _num_shown = 0  # tokens of the output that were looked at
    _is_shared = False  # whether the output's list is another request's too
    _shares_text = False  # whether the text is
    _shares_stats = False  # whether the counts are
    _asked: Asked | None = None

    options: Options
    index: int
    serial: int
    key: RandomKey
    number: int
    group: Drafting | None
    unread: deque[tuple[int, list[Piece]]]
    logprobs: list[TokenLogprob]
    prompt_logprobs: list[TokenLogprob | None]
    _branch: Branch | None
    _stats: Stats

    @property
    def stats(self) -> Stats:
        """What it has cost so far."""
        if self._shares_stats:
            with _COPYING:  # any thread may look
                if self._shares_stats:
                    stats = twin(self._stats)
                    stats.seconds = dict(stats.seconds)
                    self._stats, self._shares_stats = stats, False
        return self._stats

    @property
    def asked(self) -> Asked:
        """What its processor and its criterion have said about tokens that are not emitted yet."""
        if self._asked is None:
            self._asked = Asked()
        return self._asked

    def continued(self, index: int, key: RandomKey, branch: Branch | None) -> Self:
        """A request that goes on from here, with a branch and random numbers of its own. Nothing is copied
        that grows with the text, but for log-probabilities: the output is when it is first added to."""
        self._is_shared = self._shares_text = self._shares_stats = True
        child: Self = object.__new__(type(self))
        child.__dict__ = self.__dict__.copy()
        child.index, child.key, child._branch, child.group = index, key, branch, None
        child.number, child.serial = key.number, next(SERIALS)
        child.tail, child.unread, child._asked = (0, 0), deque(), None
        if self.options.logprobs is not None:
            child.logprobs, child.prompt_logprobs = list(self.logprobs), list(self.prompt_logprobs)
        return child

    def successor(self, key: RandomKey) -> Self:
        """A request that has everything of this one, until :meth:`close_for` closes this one."""
        first: Self = object.__new__(type(self))
        first.__dict__ = self.__dict__
        self.key, self.tail = key, (0, 0)
        return first

    def close_for(self, successor: Forkable, reason: BaseException) -> None:
        """Leaves everything to its successor: what it was is closed for this reason."""
        # The output goes on in the successor alone, and so do the counts.
        successor._is_shared = successor._shares_stats = True
        closed = self.__dict__.copy()
        closed.update(_branch=None, group=None, keeper=None, fresh=None, unread=deque(), error=reason)
        self.__dict__ = closed
