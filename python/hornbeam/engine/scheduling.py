"""Which requests take part in the next step, and with how many rows of their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hornbeam.engine.attending import aligned
from hornbeam.engine.request import Request
from hornbeam.engine.request_state import SHARED_PREFIX

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine

__all__ = ["Chunk", "Chunks", "Schedule"]

#: Rows of one prefill step that several short prompts share.
SHARED_PREFILL_ROWS = 1024

#: A step with rows of prompts beside rows of decoding takes at most so many times as long as without.
LONGEST_WAIT = 3.3

#: Rows of prompts beside decoding while nothing is known of their cost.
FIRST_ROWS = 32


@dataclass(frozen=True)
class Chunk:
    """The next rows of a prompt."""

    request: Request
    token_ids: list[int]
    #: Reads them sparsely, alone in their step; None where they read everything.
    prefill: Any = None

    @property
    def rows_wanted(self) -> range:
        """Those of its rows whose logits are wanted, which are its last ones."""
        return self.request.rows_wanted(self.request.branch.length, len(self.token_ids))

    @property
    def is_last(self) -> bool:
        """Whether the prompt is complete with them."""
        request = self.request
        return request.branch.length + len(self.token_ids) == request.num_committed

    @property
    def is_written(self) -> bool:
        """Whether it is the last token of a text that was written, and no more of the prompt."""
        return self.request.goes_on and len(self.token_ids) == 1 and self.is_last


@dataclass(frozen=True)
class Schedule:
    """The requests of the next step."""

    decoding: list[Request]
    chunks: list[Chunk]
    #: Those whose prompts are not read to the end, in this step or not.
    waiting: list[Request]
    #: Those that failed before the step.
    ended: list[Request] = field(default_factory=list)


class Chunks:
    """How many rows of prompts fit beside decoding, so that nobody's next token waits for too long.

    The first guess comes from the measured cost curve; after that every such step says how many rows would
    have taken :data:`LONGEST_WAIT` times as long as a step of decoding alone.
    """

    def __init__(self) -> None:
        self._rows: float | None = None
        #: Whether the last step was of a sparse chunk, for which those that decode have waited.
        self.was_alone = False
        self._alone: dict[int, float] = {}  # seconds of steps of decoding alone, by the logarithm of rows

    def rows(self, engine: Engine, num_decoding: int) -> int:
        """Rows of prompts in a step beside so many requests that decode."""
        if self._rows is not None:
            return max(int(self._rows), 1)
        limit = self._limit(engine, num_decoding)
        if limit is None:
            return FIRST_ROWS
        rows = FIRST_ROWS
        while rows > 1 and (engine.cost_curve.seconds(num_decoding + rows) or 0.0) > limit:
            rows //= 2
        return rows

    def _limit(self, engine: Engine, num_rows: int) -> float | None:
        alone = self._alone.get(num_rows.bit_length()) or engine.cost_curve.seconds(num_rows)
        return None if alone is None else LONGEST_WAIT * alone

    def observe(self, engine: Engine, num_decoding: int, num_prompt: int, seconds: float) -> None:
        """Records a step: rows of decoding, rows of prompts beside them, and what it took."""
        if num_prompt == 0:
            size = num_decoding.bit_length()
            before = self._alone.get(size, seconds)
            self._alone[size] = min(0.8 * before + 0.2 * seconds, 1.5 * before)
            return
        limit = self._limit(engine, num_decoding)
        if limit is not None and num_decoding > 0:
            fit = limit / max(seconds, 1e-9)
            # More rows cost less each: seven tenths of the way are taken upwards, all of it downwards.
            self._rows = max(1.0, num_prompt * (min(1.0 + 0.7 * (fit - 1.0), 2.0) if fit > 1.0 else fit))


def schedule(engine: Engine, requests: Sequence[Request]) -> Schedule:
    """The next step of these requests, which are in the order of their submission."""
    for request in requests:
        if request.num_committed == 0:
            request.open(engine.tree, 0)
    waiting = [r for r in requests if not r.is_read]
    _settle(requests, waiting)
    ended = [r for r in requests if r.done]
    requests = [r for r in requests if not r.done]
    # A call's prompts are read before any of them decodes: its answers come together, and dense attention
    # reads a long one best.
    reading = {r.call for r in waiting if not r.is_put_off(engine)}
    decoding = [
        r
        for r in requests
        if r.is_read and r.call not in reading and not (r.keeper is not None and r.keeper.is_awaiting(r))
    ]
    _share(engine, waiting)
    if decoding and not engine.chunks.was_alone and (alone := _alone(engine, waiting)) is not None:
        engine.chunks.was_alone = True
        return Schedule([], [alone], waiting, ended)
    engine.chunks.was_alone = False
    if not decoding:
        return Schedule([], _chunks(engine, waiting, SHARED_PREFILL_ROWS, engine.dense_rows), waiting, ended)
    room = engine.chunks.rows(engine, len(decoding))
    return Schedule(decoding, _chunks(engine, waiting, room, None), waiting, ended)


def _settle(requests: Sequence[Request], waiting: Sequence[Request]) -> None:
    """Reduces those that put it off for the sake of a request that has ended since."""
    for request in requests:
        if request.keeper is not None:
            request.keeper.settle(request, waiting)


def _chunks(engine: Engine, waiting: Sequence[Request], room: int, dense_rows: int | None) -> list[Chunk]:
    """The next rows of the first prompts: with ``dense_rows`` a prompt of so many takes a step of its own,
    since torch's dense attention serves it best."""
    chunks: list[Chunk] = []
    for request in waiting:
        if request.is_put_off(engine) or _twin(engine, request, waiting) is not None:
            continue
        reusable = engine.reusable(request)
        request.open(engine.tree, aligned(engine.tree, request, reusable))
        is_fresh = request.branch.length == request.num_matched
        shared = max((_shared(request.prompt, chunk.request.prompt) for chunk in chunks), default=0)
        if is_fresh and min(shared, reusable) - request.branch.length >= SHARED_PREFIX:
            request.close()  # matched again in the next step, when the tree holds what it shares
            continue
        rest = request.committed[request.branch.length :]
        if is_sparse := _is_sparse(request):
            if dense_rows is None:
                continue  # it has a step of its own
            rest = rest[:-1]
        is_alone = is_sparse or (dense_rows is not None and len(rest) >= dense_rows)
        if chunks and (is_alone or (dense_rows is not None and len(rest) > room)):
            if is_fresh:
                request.close()  # matched again when its turn comes, against a fuller tree
            break
        prefill = request.options.prefill if is_sparse else None
        chunks.append(Chunk(request, rest[: engine.prefill_rows if is_alone else room], prefill))
        room -= len(chunks[-1].token_ids)
        if is_alone or room <= 0:
            break
    return chunks


def _is_sparse(request: Request) -> bool:
    """Whether the next rows of a prompt are read sparsely. Its last token is not, since it may be the first
    row of several texts."""
    return request.options.prefill is not None and request.branch.length < request.num_committed - 1


def _alone(engine: Engine, waiting: Sequence[Request]) -> Chunk | None:
    """The next sparse chunk, which has a step of its own: what it reads shall not depend on who else is under
    way, so that it is as long as it would be without them."""
    wanted = [request for request in waiting if request.options.prefill is not None]
    chunks = _chunks(engine, wanted, 1, engine.dense_rows)
    return chunks[0] if chunks and chunks[0].prefill is not None else None


def _twin(engine: Engine, request: Request, waiting: Sequence[Request]) -> Request | None:
    """The request before this one that reads the same prompt sparsely, for which it waits."""
    if not _is_shareable(request) or not (request.is_closed or request.branch.length == 0):
        return None
    for other in waiting:
        if other is request:
            break
        is_same = other.options.prefill == request.options.prefill and other.prompt == request.prompt
        if _is_shareable(other) and is_same and not other.is_put_off(engine):
            return other
    return None


def _is_shareable(request: Request) -> bool:
    """Whether what is read of its prompt depends on the prompt alone, and nobody looks at it meanwhile."""
    options = request.options
    return options.prefill is not None and not (options.echo or request.keeper or request.output)


def _share(engine: Engine, waiting: Sequence[Request]) -> None:
    """Those that wait for the same prompt take up what was read of it, which is all but its last token."""
    for request in waiting:
        other = _twin(engine, request, waiting)
        if other is None or other.is_closed or other.branch.length != other.num_committed - 1:
            continue
        if 0 < other.branch.length == request.num_committed - 1:
            request.close()
            request.start_after(other.branch.fork())


def _shared(a: list[int], b: list[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
