"""The state of one request: its branch, what it emitted, why it ended, and what it cost."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from hornbeam.engine.forkable import SERIALS, UNLIMITED, Forkable
from hornbeam.engine.logprobs import token_entries
from hornbeam.results import Finish, Generation, Piece, Source, Stats, TokenLogprob
from hornbeam.text import TextStream, continuation

if TYPE_CHECKING:
    from hornbeam.cache.branch import Branch
    from hornbeam.cache.tree import PrefixTree
    from hornbeam.engine.ambient import Ambient
    from hornbeam.engine.drafting import Drafting
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.options import Options
    from hornbeam.engine.random_key import RandomKey
    from hornbeam.engine.requests import Requests

__all__ = ["SHARED_PREFIX", "UNLIMITED", "RequestState"]

#: A prompt waits for one that goes first if that saves it so many rows.
SHARED_PREFIX = 16


class RequestState(Forkable):
    """The state of a request, and what the engine does with it; :class:`hornbeam.engine.request.Request` says
    what callers may look at."""

    def __init__(
        self,
        engine: Engine,
        index: int,
        key: RandomKey,
        prompt: list[int],
        options: Options,
        *,
        ambient: Ambient,
        place: int = 0,
        before: Sequence[int] = (),
        call: object = None,
        streams: bool = True,
        releases: bool = False,
        owner: object = None,
    ) -> None:
        self.engine = engine
        self.options = options
        self.ambient = ambient
        self.kernels = engine.kernels  # that run its rows from its beginning to its end
        #: Told apart from all other live requests of the engine by it.
        self.index = index
        self.serial = next(SERIALS)  # no other request ever has it
        #: Which prompt of a call it is.
        self.place = place
        #: Those of one call are read before any of them decodes.
        self.call = call
        self.key = key
        self.number = key.number
        self.prompt = prompt
        self.output: list[int] = []
        #: Padding before the prompt, for processors and criteria alone.
        self.before = before
        self._owner = None if owner is None else weakref.ref(owner)
        self._streams = streams
        #: Whether its branch is released as soon as it is done.
        self.releases = releases
        self._branch: Branch | None = None
        self.pending = -1  # emitted, but not yet a row
        self.is_read = False  # whether the branch holds all that is certain, but for the pending token
        self.group: Drafting | None = None  # what drafts for it, once :meth:`Engine.group_of` was asked
        #: Pieces of the step under way, the tokens that the branch has once it is committed, and the length
        #: of the output before.
        self.fresh: tuple[list[Piece], int, int] | None = None
        #: What was emitted and not looked at yet, each with the length of the output before it.
        self.unread: deque[tuple[int, list[Piece]]] = deque()
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob | None] = [None]
        self._begin()

    def _begin(self) -> None:
        """Begins with an empty output."""
        self._asked = None
        # Why the sequence ends, and the length of the output that it ends with.
        self._ending: tuple[Finish, int] | None = None
        self._stats, self._shares_stats = Stats(prompt_tokens=len(self.prompt)), False
        self.text: TextStream | None = None
        self._make_text()
        # The last token emitted needs no row, hence one more than there are positions left.
        limit = self.options.max_new_tokens
        self.room = min(limit, self.engine.max_positions - len(self.prompt) + 1)
        self.limit: Finish = "length" if self.room == limit else "context"
        if limit == 0:
            self._ending = ("length", 0)

    def _make_text(self) -> None:
        """The text of the output, where somebody looks at it before the end."""
        if self.engine.tokenizer is not None and (self.options.stop or self._streams):
            self.text = TextStream(self.engine.tokenizer, self.options.stop, self.prompt)
            for token in self.output:
                self.text.push(token)
                self.text.take()

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self.error is not None or self.finish is not None

    @property
    def is_orphan(self) -> bool:
        """Whether the call that it belongs to has gone."""
        return self._owner is not None and self._owner() is None

    @property
    def seed(self) -> int:
        """Of its random numbers; not known before it draws, so that a fork need not hash."""
        return self.key.seed(self.options.seed)

    @property
    def position(self) -> int:
        """Logical position of the token to be sampled next."""
        return len(self.prompt) + len(self.output)

    @property
    def is_ending(self) -> bool:
        """Whether the tokens that were cut last, emitted or not, are the sequence's last."""
        return self._ending is not None

    @property
    def finish(self) -> Finish | None:
        """Why the sequence has ended. An end takes effect together with the output that it belongs to, so
        that an interrupt in between leaves neither."""
        if self._ending is None or len(self.output) != self._ending[1]:
            return None
        return self._ending[0]

    def interrupt(self) -> None:
        """Ends the sequence with what there is, unless it has ended."""
        if self.finish is None:
            self._ending = ("interrupted", len(self.output))

    @property
    def committed(self) -> list[int]:
        """The tokens that the branch holds before the next step of decoding: all but the pending one."""
        return [*self.prompt, *self.output[:-1]]

    @property
    def wants_token(self) -> bool:
        """Whether the end of its prompt gives a token: the first."""
        return not self.output

    @property
    def num_committed(self) -> int:
        """Their number."""
        return len(self.prompt) + max(len(self.output) - 1, 0)

    @property
    def branch(self) -> Branch:
        """The committed tokens; there from the first prefill step to the end of the sequence."""
        assert self._branch is not None, "the sequence has no branch yet, or no more"
        return self._branch

    def open(self, tree: PrefixTree, reusable: int) -> None:
        """Takes up what the tree holds of the prompt, ``reusable`` tokens or all but the last at most."""
        if self._branch is None:
            text = self.committed
            self._branch = tree.match(text, max_tokens=max(min(reusable, len(text) - 1), 0))
            self.num_matched = self._branch.length
            if not self.output:
                self.stats.reused_tokens = self.num_matched

    def start_after(self, branch: Branch) -> None:
        """Takes up a branch that holds its whole prompt, or all but the last token."""
        self._branch, self.stats.reused_tokens = branch, branch.length
        self.num_matched = -1  # none is looked for

    def prolong(self, more: list[int], options: Options) -> None:
        """Begins anew behind the output, with more of the prompt."""
        self.prompt, self.output, self._is_shared = [*self.prompt, *self.output, *more], [], False
        self.options, self.goes_on = options, not more
        self.pending, self.is_read, self.draft_room, self.pauses_at = -1, False, UNLIMITED, UNLIMITED
        self.logprobs, self.prompt_logprobs = [], [None]
        self.unread.clear()
        self._num_shown = 0
        reused, self.num_matched = 0 if self.is_closed else self.branch.length, -1
        self._begin()
        self.stats.reused_tokens = reused

    @property
    def is_closed(self) -> bool:
        """Whether the sequence holds no branch: not yet, or no more."""
        return self._branch is None

    @property
    def can_wait(self) -> bool:
        """Whether it may be read anew later."""
        return self.keeper is None and not (self.output and self.options.reads_sparsely)

    def put_off(self, engine: Engine) -> None:
        """Waits until another request has ended, since there is no memory for both."""
        self.take_back()
        self.close()
        self.waits_for = engine.num_ended

    def is_put_off(self, engine: Requests) -> bool:
        """Whether it waits for another to end, and there is one."""
        if self.waits_for is not None and (self.waits_for != engine.num_ended or engine.is_alone(self)):
            self.waits_for = None
        return self.waits_for is not None

    def close(self, keep: bool = True) -> None:
        """Releases the branch, if there is one; with ``keep`` it stays cached."""
        if self._branch is not None:
            self._branch.drop(keep)
        self._branch = None
        self.is_read = False

    def cut(self, fresh: list[tuple[int, Source]]) -> list[Piece]:
        """The tokens up to the first that ends the sequence, with the text that each makes certain. The end
        takes effect when they are emitted."""
        pieces = []
        if self._shares_text and self.text is not None:
            self.text = self.text.fork()
        self._shares_text = False
        stream = self.text
        for count, (token, source) in enumerate(fresh, 1):
            finish: Finish | None = None
            if token in self.options.eos_token_ids:
                finish = "eos"
            elif len(self.output) + count >= self.room:
                finish = self.limit
            if stream is not None and stream.push(token):
                finish = "stop"
            # It is asked at every token, as transformers does: it may keep state.
            if self._is_stopped([seen for seen, _ in fresh[:count]]) and finish is None:
                finish = "criterion"
            text = ""
            if stream is not None:
                if finish is not None:
                    stream.finish()
                text = stream.take(everything=finish is not None)
            pieces.append(Piece(token, source, text))
            if finish is not None:
                self._ending = (finish, len(self.output) + count)
                break
        return pieces

    def ends_with(self, more: list[int]) -> bool:
        """Whether it ends with these tokens after the output, before a stop string is looked for."""
        is_last = len(self.output) + len(more) >= self.room
        return self._is_stopped(more) or is_last or more[-1] in self.options.eos_token_ids

    def _is_stopped(self, more: list[int]) -> bool:
        """Whether the caller's criterion ends it with these tokens after the output; asked once a length."""
        if self.options.criterion is None:
            return False
        ask = self.options.criterion
        return self.asked.stopped(more, lambda: bool(ask([*self.before, *self.prompt], self.output + more)))

    def take_back(self) -> None:
        """Forgets what was cut and not emitted."""
        self.fresh = None
        if self.finish is None:
            self._ending = None
        del self.logprobs[len(self.output) :]
        if self.text is not None:
            self._make_text()

    def emit(self) -> list[Piece]:
        """Records the tokens of the step under way, which are certain. May be done again after an
        interrupt."""
        assert self.fresh is not None
        pieces, _, before = self.fresh
        if self._is_shared:
            self.output, self._is_shared = list(self.output), False
        self.pending = pieces[-1].token
        self.is_read = True
        if self._streams:
            # Before the output: another thread that sees the end finds all that there is to show.
            self.unread.append((before, pieces))
        if len(self.output) == before:
            # One call that no interrupt divides.
            self.output.extend([piece.token for piece in pieces])
        if self._asked is not None:
            self._asked.clear()
        self.stats.emitted = len(self.output)
        self.is_paused = self.is_paused or len(self.output) >= self.pauses_at
        self.fresh = None
        return pieces

    @property
    def num_reusable(self) -> int:
        """Tokens whose rows need not be computed if the cache holds them."""
        return 0 if self.options.echo and not self.output else self.num_committed

    def rows_wanted(self, begin: int, count: int) -> range:
        """Of ``count`` rows of the prompt, the first of which follows ``begin`` tokens: those whose logits
        are wanted, which are the last ones."""
        if self.options.echo and not self.output:
            return range(count)
        return range(count - int(begin + count == self.num_committed), count)

    def take_logits(self, begin: int, logits: torch.Tensor) -> None:
        """Reads what it wants of these rows ``[rows wanted, V]``, but for its first token."""
        if self.options.echo and not self.output:
            following = self.prompt[begin + 1 : begin + len(logits) + 1]
            del self.prompt_logprobs[begin + 1 :]  # of a step that was rolled back
            self.prompt_logprobs += token_entries(following, logits, self.options.logprobs or 0)

    def restored(self) -> None:
        """It was not read, and stands where its prompt ends, after a step that did not come to its end."""
        if self.output:
            self.is_read = True
        else:
            self.close()  # the logits after its prompt are gone

    def read_to_the_end(self) -> None:
        """The prompt was read to its end, and its last row has given no token in this step."""
        self.is_read = True

    def fail(self, error: BaseException) -> None:
        """Ends with an error, unless it has ended."""
        if not self.done:
            self.error = error

    def generation(self) -> Generation:
        """The answer, once the sequence is finished or given up."""
        text, tokenizer = "", self.engine.tokenizer
        if self.text is not None and self.finish not in ("interrupted", "cancelled"):
            text = self.text.text
        elif tokenizer is not None:
            text = continuation(tokenizer, self.prompt, self.output)
        self.stats.peak_kv_bytes = self.engine.tree.peak_bytes
        asked, echo = self.options.logprobs is not None, self.options.echo
        return Generation(
            text,
            self.output,
            self.finish or "length",
            self.stats,
            self.logprobs if asked else None,
            self.prompt_logprobs if echo else None,
        )
