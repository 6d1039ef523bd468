"""The decoding loop: prefill, draft, forward, verify, commit, for a ragged batch of sequences.

One call of :meth:`hornbeam.LM.generate` is one :class:`Decoding`. Every step is a transaction on the
prefix tree: an exception anywhere (the model, a callback, Ctrl-C) rolls the open step back and
releases the call's branches, so the tree afterwards holds what was committed and nothing else.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from hornbeam import ops
from hornbeam.drafting import Draft, Drafting, history, process
from hornbeam.errors import OutOfPages, StateError
from hornbeam.interrupts import end_frames
from hornbeam.keeping import Keeper, Watch
from hornbeam.runner import Output
from hornbeam.sequence import SHARED_PREFIX, Generation, Options, Piece, Sequence, Source, Stats
from hornbeam.spec.protocols import Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hornbeam.graphs import StepGraphs
    from hornbeam.layers import Computed
    from hornbeam.lm import LM
    from hornbeam.tree import Branch, Step

__all__ = ["Decoding", "Generation", "Options", "Stats"]

# Rows of one prefill step that several short prompts share.
SHARED_PREFILL_ROWS = 1024

Phase = Literal["prefill", "draft", "forward", "verify", "commit", "keep"]


class Decoding:
    """Decodes a batch of prompts with one set of options."""

    def __init__(self, lm: LM, prompts: Seq[list[int]], options: Options) -> None:
        self.lm = lm
        self.options = options
        self.seconds: defaultdict[str, float] = defaultdict(float)
        # A callback of another call runs while that one's step is open.
        self._is_within_step = lm.tree.has_open_step
        # Equal prompts of one call get different random numbers; a prompt alone and the same prompt
        # in a batch get the same.
        seen: Counter[tuple[int, ...]] = Counter()
        self.sequences: list[Sequence] = []
        for index, prompt in enumerate(prompts):
            key = tuple(prompt)
            self.sequences.append(Sequence(lm, index, seen[key], prompt, options))
            seen[key] += 1
        self._begin()

    def _begin(self) -> None:
        """Begins with what every sequence holds so far."""
        self.changes = self.lm.runner.changes
        self.drafting = Drafting(self.lm, self.options)
        self.keeper = None if self.options.keep is None else Keeper(self.lm, self.options.keep)

    def run(self) -> list[Generation]:
        """Decodes to the end, or to Ctrl-C; one answer a prompt, in order."""
        with ExitStack() as stack:
            for sequence in self.sequences:
                stack.callback(self._close, sequence)
            try:
                if self.options.max_new_tokens > 0:
                    if self.options.trace is not None:
                        for sequence in self.sequences:
                            self.options.trace.first(sequence)
                    self._start()
                    while active := [s for s in self.sequences if s.finish is None]:
                        if self._has_changed():
                            self._start_again(active)
                        elif waiting := [s for s in active if not s.is_read]:
                            self._prefill(waiting)
                        else:
                            self._step(active)
            except KeyboardInterrupt as interrupt:
                end_frames(interrupt)
                if not self._is_within_step:
                    self.lm.tree.recover(owner=self.lm)
                for sequence in self.sequences:
                    sequence.interrupt()
        return [sequence.generation(self.seconds) for sequence in self.sequences]

    def _close(self, sequence: Sequence) -> None:
        sequence.close()
        self.drafting.finish(sequence)
        if self.keeper is not None:
            self.keeper.forget(sequence)

    @contextmanager
    def _phase(self, phase: Phase) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - begin

    # -- the model as it is now ----------------------------------------------------------------------

    def _has_changed(self) -> bool:
        """Whether the model is another than what was computed so far."""
        self.lm.notice()
        return self.changes != self.lm.runner.changes

    def _start(self) -> None:
        """Hands the sequences that go on to the draft source."""
        for sequence in self.sequences:
            if sequence.finish is None:
                self.drafting.start(sequence)

    def _reusable(self, sequence: Sequence) -> int:
        """How many tokens of a text may come from the cache. A recipe wants to see some queries; a draft
        source makes do with what is computed."""
        if self.keeper is None:
            return len(sequence.committed)
        return self.keeper.reusable(len(sequence.prompt))

    def _start_again(self, active: list[Sequence]) -> None:
        """Goes on with a model that has changed: it reads anew what there is of every text."""
        if self.keeper is not None and any(sequence.output for sequence in active):
            raise StateError(
                "the model changed while a text with keep= was under way, and what its cache has let go "
                "cannot be computed again"
            )
        for sequence in active:
            self._close(sequence)
        self._begin()
        self._start()

    # -- prefill ---------------------------------------------------------------------------------

    def _prefill(self, waiting: list[Sequence]) -> None:
        """One step towards what the tree does not hold of each text; samples the first token of each prompt
        that is complete with it."""
        with self._phase("prefill"):
            done, logits = self._prefill_step(waiting)
        for sequence in done:
            sequence.is_read = True
        fresh = [i for i, sequence in enumerate(done) if not sequence.output]
        if fresh:
            batch = [done[i] for i in fresh]
            logits = logits if len(fresh) == len(done) else logits[fresh]
            for sequence, token in zip(batch, self._sample(batch, logits), strict=True):
                emitted = sequence.cut([(token, "plain")])
                sequence.pending = token
                sequence.emit(emitted)

    def _prefill_step(self, waiting: list[Sequence]) -> tuple[list[Sequence], torch.Tensor]:
        """One forward pass over the next rows of the first texts; returns those that it finished,
        with the logits of their last rows."""
        requests: list[tuple[Branch, list[int], None]] = []
        taken: list[Sequence] = []
        room = SHARED_PREFILL_ROWS
        for sequence in waiting:
            reusable = self._reusable(sequence)
            sequence.open(self.lm.tree, reusable)
            fresh = sequence.branch.length == sequence.num_matched
            shared = max((_shared(sequence.prompt, other.prompt) for other in taken), default=0)
            if fresh and min(shared, reusable) - sequence.branch.length >= SHARED_PREFIX:
                sequence.close()  # matched again in the next step, when the tree holds what it shares
                continue
            rest = sequence.committed[sequence.branch.length :]
            # A long prompt takes a step of its own: torch's dense attention serves it best.
            alone = len(rest) >= self.lm.dense_rows
            if requests and (alone or len(rest) > room):
                if fresh:
                    sequence.close()  # matched again when its turn comes, against a fuller tree
                break
            requests.append((sequence.branch, rest[: self.lm.prefill_rows if alone else room], None))
            taken.append(sequence)
            room -= len(requests[-1][1])
            if alone or room <= 0:
                break
        done = [s for s, r in zip(taken, requests, strict=True) if _remaining(s) == len(r[1])]
        with self.lm.tree.step(requests, owner=self.lm) as step:
            rows = [int(step.rows[i][-1]) for i, s in enumerate(taken) if s in done]
            watch = None if self.keeper is None else self.keeper.watch(step, taken)
            output = self._forward(step, rows or [0], watch=watch)
            step.commit([range(len(tokens)) for _, tokens, _ in requests])
        if self.keeper is not None:
            with self._phase("keep"):
                self.keeper.on_prefill(watch, taken, [s for s in waiting if s not in done])
        self.drafting.observe(
            [
                Outcome(
                    s.index,
                    tokens,
                    list(range(len(tokens))),
                    True,
                    s.branch.length - len(tokens),
                    hidden=hidden,
                )
                for s, (_, tokens, _), hidden in zip(taken, requests, self._hidden(step, output), strict=True)
            ]
        )
        return done, output.logits

    def _sample(self, batch: list[Sequence], logits: torch.Tensor) -> list[int]:
        with self._phase("verify"):
            if self.options.processor is not None:
                logits = torch.cat(
                    [process(s, Draft(), row[None]) for s, row in zip(batch, logits, strict=True)]
                )
            return ops.sample_ids(
                logits,
                self.options.warp,
                seed=self.options.seed,
                sequences=_integers([s.number for s in batch]),
                positions=_integers([s.position for s in batch]),
                history=history(batch, self.options),
            )

    # -- decoding --------------------------------------------------------------------------------

    def _step(self, active: list[Sequence]) -> None:
        trace = self.options.trace
        if self.keeper is not None:
            for sequence in active:
                room = self.keeper.room(sequence)
                sequence.draft_room = sequence.draft_room if room is None else room
        with self._phase("draft"):
            try:
                drafts = self.drafting.propose(active)
                # Scores look at the queries of every layer, so that with a recipe every layer runs.
                computed = None if self.keeper is not None else self.drafting.reuse(drafts)
            except OutOfPages:
                # A ratio test is not told of a draft that was dropped for a size that draws may have decided.
                if self.drafting.is_ratio_test:
                    raise
                drafts, computed = self.drafting.withdraw(active), None
        try:
            requests, opened = self._open(active, drafts)
        except OutOfPages:
            if self.drafting.is_ratio_test or not any(draft.tokens for draft in drafts):
                raise
            # What fits without a draft is decoded.
            drafts, computed = self.drafting.withdraw(active), None
            requests, opened = self._open(active, drafts)
        with opened as step:
            begin = time.perf_counter()
            watch = None if self.keeper is None else self.keeper.watch(step, active)
            graphs = None if computed is not None else self._graphs(drafts)
            if graphs is not None:
                with self._phase("forward"):
                    output, verdicts = graphs.run(step, active, drafts, self.options)
            else:
                with self._phase("forward"):
                    output = self._forward(step, computed=computed, watch=watch)
                    seconds = time.perf_counter() - begin
                with self._phase("verify"):
                    verdicts = self.drafting.verify(active, drafts, output.logits)
            if (
                graphs is not None or self.lm.runner.is_asynchronous
            ):  # the pass has ended when the verdicts are read
                seconds = time.perf_counter() - begin
            if computed is None:
                self.lm.cost_curve.observe(step.num_rows, seconds)
            elif (whole := self.lm.cost_curve.seconds(step.num_rows)) is not None:
                self.drafting.credit(max(whole - seconds, 0.0))
            kept: list[list[Piece]] = []
            for sequence, draft, verdict in zip(active, drafts, verdicts, strict=True):
                stats = sequence.stats
                stats.forward_passes += 1
                stats.rows += 1 + len(draft.tokens)
                stats.drafted += len(draft.tokens)
                fresh: list[tuple[int, Source]] = [
                    *((draft.tokens[index], "draft") for index in verdict.accepted),
                    (verdict.next_token, "plain"),
                ]
                emitted = sequence.cut(fresh)
                stats.accepted += sum(piece.source == "draft" for piece in emitted)
                kept.append(emitted)
            paths = [
                [0, *(index + 1 for index in verdict.accepted)][: len(emitted)]
                for verdict, emitted in zip(verdicts, kept, strict=True)
            ]
            with self._phase("commit"):
                step.commit(paths, is_moved=graphs is not None)
        if self.keeper is not None:
            with self._phase("keep"):
                self.keeper.on_commit(watch, active, paths)
        self.drafting.judge(drafts, verdicts)
        parts = torch.split(output.logits, [len(tokens) for _, tokens, _ in requests])
        self.drafting.observe(
            [
                Outcome(
                    s.index,
                    tokens,
                    path,
                    False,
                    s.position - 1,
                    logits,
                    hidden,
                    parents or range(-1, len(tokens) - 1),
                )
                for s, (_, tokens, parents), path, logits, hidden in zip(
                    active, requests, paths, parts, self._hidden(step, output), strict=True
                )
            ]
        )
        kinds = [self.drafting.kinds(s, d) for s, d in zip(active, drafts, strict=True)] if trace else []
        for sequence, emitted in zip(active, kept, strict=True):
            sequence.pending = emitted[-1].token
            sequence.emit(emitted)
        if trace is not None:
            trace.step(active, drafts, verdicts, kept, kinds, step.num_rows, seconds)

    def _open(self, active: list[Sequence], drafts: list[Draft]) -> tuple[list[Any], Step]:
        """The requests of a step, and the step."""
        requests = [(s.branch, *draft.rows(s.pending)) for s, draft in zip(active, drafts, strict=True)]
        return requests, self.lm.tree.step(requests, owner=self.lm)

    def _graphs(self, drafts: list[Draft]) -> StepGraphs | None:
        """The captured steps, where there are some and this step can be one."""
        graphs = self.lm.graphs
        if (
            graphs is None
            or self.keeper is not None
            or self.drafting.hidden_layers
            or not graphs.fits(self.options, drafts)
        ):
            return None
        return graphs

    def _forward(
        self,
        step: Step,
        rows: list[int] | None = None,
        computed: Computed | None = None,
        watch: Watch | None = None,
    ) -> Output:
        """The logits of the given rows, or of all rows in the order of the requests, in which ``computed``
        is what is known of them already."""
        wanted: Any = rows
        if rows is None:
            order = torch.cat([torch.as_tensor(own) for own in step.rows])
            if not bool((order == torch.arange(order.shape[0])).all()):
                wanted = order
                computed = None if computed is None else computed[torch.argsort(order)]
        hidden = bool(self.drafting.hidden_layers)
        with ExitStack() as stack:
            if watch is not None and self.keeper is not None and self.keeper.is_press:
                stack.enter_context(watch.seeing_inputs(self.lm.runner.shadow.model))
            return self.lm.runner.forward(
                self.lm.tree, step, logits_rows=wanted, hidden=hidden, entry=computed, observer=watch
            )

    def _hidden(self, step: Step, output: Output) -> list[torch.Tensor | None]:
        """What the draft source wants to see of each request's hidden states."""
        if output.hidden is None:
            return [None for _ in step.rows]
        layers = [output.hidden[layer] for layer in self.drafting.hidden_layers]
        return [torch.stack([layer[_run(own)] for layer in layers], dim=1) for own in step.rows]


def _run(rows: NDArray[np.int64]) -> slice | torch.Tensor:
    """Rows as an index; a slice where they are neighbours, so that none is sent to a device."""
    first = int(rows[0])
    if bool((np.diff(rows) == 1).all()):
        return slice(first, first + len(rows))
    return torch.from_numpy(rows)


def _remaining(sequence: Sequence) -> int:
    return len(sequence.committed) - sequence.branch.length


def _shared(a: list[int], b: list[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _integers(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)
