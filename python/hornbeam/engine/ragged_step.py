"""The parts of one step, in their order: draft, open, forward, verify, commit, and what follows from it."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from hornbeam.engine.attending import exactness, limit_drafts, note, row_recipes
from hornbeam.engine.blame import Blamed, blaming
from hornbeam.engine.drafting import Drafting
from hornbeam.engine.logprobs import Wanted, take_entries, token_entries
from hornbeam.engine.outcomes import tell_sources
from hornbeam.engine.reading import Reading
from hornbeam.engine.request import Request
from hornbeam.engine.scheduling import Schedule
from hornbeam.engine.verifying import process
from hornbeam.errors import OutOfPages
from hornbeam.results import Piece, Source
from hornbeam.speculation.protocols import Others
from hornbeam.speculation.step_draft import StepDraft, Verdict

if TYPE_CHECKING:
    from hornbeam.cache.step import Step
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.eviction import Keeper, QueryObserver
    from hornbeam.engine.graphs import StepGraphs
    from hornbeam.model.layers import Computed
    from hornbeam.model.runner import Output

__all__ = ["RaggedStep"]

Phase = Literal["prefill", "draft", "forward", "verify", "commit", "keep"]


@dataclass
class _Group:
    """The requests of a step that one draft source serves."""

    drafting: Drafting
    requests: list[Request] = field(default_factory=list)
    drafts: list[StepDraft] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    rows: slice = field(default_factory=lambda: slice(0))


class RaggedStep:
    """The parts of one step, in their order."""

    def __init__(self, engine: Engine, plan: Schedule) -> None:
        self.engine = engine
        self.chunks = plan.chunks
        self.waiting = plan.waiting
        self.seconds: defaultdict[str, float] = defaultdict(float)
        groups: dict[int, _Group] = {}
        for request in plan.decoding:
            drafting = engine.group_of(request)
            groups.setdefault(id(drafting), _Group(drafting)).requests.append(request)
        self.groups = list(groups.values())
        #: Of the requests that decode, in the order of their rows.
        self.decoding = [request for group in self.groups for request in group.requests]
        self.taken = [*self.decoding, *(chunk.request for chunk in self.chunks)]
        #: The chunks whose prompts are complete with them, and that have no token yet.
        self.first = [chunk for chunk in self.chunks if chunk.is_last and chunk.request.wants_token]
        #: Those whose texts end with this step and that ask for the hidden state there, by their place.
        self._seers: dict[int, Reading] = {}
        for place, chunk in enumerate(self.chunks, len(self.decoding)):
            if isinstance(chunk.request, Reading) and chunk.request.wants_hidden and chunk.is_last:
                self._seers[place] = chunk.request
        self.observers: list[tuple[Keeper, list[Request], QueryObserver | None]] = []

    def _count(self, phase: Phase, begin: float) -> float:
        """Counts the seconds of a phase that is at its end, and gives the time. Those of a step of prompts
        alone are of the prefill, but for recipes."""
        now = time.perf_counter()
        self.seconds[phase if self.decoding or phase == "keep" else "prefill"] += now - begin
        return now

    def run(self) -> list[tuple[Request, list[Piece]]]:
        """Takes the step."""
        begin = time.perf_counter()
        computed = self._draft()
        self._count("draft", begin)
        requests, opened = self._open()
        if self._is_withdrawn:
            computed = None
        num_decoding = 0
        for group in self.groups:
            end = num_decoding + sum(1 + len(draft.tokens) for draft in group.drafts)
            group.rows, num_decoding = slice(num_decoding, end), end
        with opened as step:
            begin = time.perf_counter()
            self._watch(step)
            graphs = self._graphs() if computed is None else None
            if graphs is not None:
                [group] = self.groups
                output, group.verdicts = graphs.run(
                    step, group.requests, group.drafts, group.drafting.options
                )
            else:
                output = self._forward(step, computed)
            now = self._count("forward", begin)
            seconds = now - begin - self.engine.runner.switch.last_beside
            if graphs is None:
                self._verify(output.logits)
            tokens = self._first_tokens(output.logits[num_decoding:])
            if output.hidden is not None:
                for place, reading in self._seers.items():
                    reading.take_hidden(output.hidden[-1][int(step.rows[place][-1])])
            now = self._count("verify", now)
            if graphs is not None or self.engine.runner.is_asynchronous:
                # The pass has ended when the verdicts are read.
                seconds = now - begin
            self._observe_cost(step, computed, num_decoding, seconds)
            paths = self._cut(output.logits, tokens)
            now = time.perf_counter()
            step.commit(paths, is_moved=graphs is not None)
            self._count("commit", now)
        note(step, self.taken, paths, output)
        self._keep(paths)
        tell_sources(self, step, requests, paths, output)
        emitted = self._emit(step, seconds)
        self._count_seconds()
        return emitted

    # -- drafts --------------------------------------------------------------------------------------------

    def _draft(self) -> Computed | None:
        """Makes the drafts; what is computed of their rows already, if all rows of the step are theirs."""
        self._is_withdrawn = False
        limit_drafts(self.decoding)
        computed = None
        try:
            rows = sum(len(chunk.token_ids) for chunk in self.chunks)
            for group in self.groups:
                others = Others(len(self.decoding) - len(group.requests), rows)
                with blaming(group.requests):
                    group.drafts = group.drafting.propose(group.requests, others)
                rows += sum(len(draft.tokens) for draft in group.drafts)
            is_plain = not any(r.keeper or r.options.attend for r in self.decoding)
            if len(self.groups) == 1 and not self.chunks and is_plain:
                # Scores look at the queries of every layer, and sparse rows are not those of a draft.
                [group] = self.groups
                with blaming(group.requests):
                    computed = group.drafting.reuse(group.drafts)
            elif not is_plain:
                for group in self.groups:
                    group.drafting.waive()
        except Blamed as blamed:
            if not isinstance(blamed.error, OutOfPages):
                raise
            self._withdraw(blamed.error)
        return computed

    def _withdraw(self, error: OutOfPages) -> None:
        """Decodes without drafts, where there is no room for them. A ratio test is not told of a draft that
        was dropped for a size that draws may have decided."""
        drafted = [group for group in self.groups if group.drafting.source is not None]
        if any(group.drafting.is_ratio_test for group in drafted):
            raise error
        for group in self.groups:
            group.drafts = group.drafting.withdraw(group.requests)
        self._is_withdrawn = True

    def _requests(self) -> list[Any]:
        decoding = [
            (request.branch, *draft.rows(request.pending))
            for group in self.groups
            for request, draft in zip(group.requests, group.drafts, strict=True)
        ]
        return [*decoding, *((chunk.request.branch, chunk.token_ids, None) for chunk in self.chunks)]

    def _open(self) -> tuple[list[Any], Step]:
        """The requests of the step, and the step."""
        exact = exactness(self.decoding, self.chunks)
        requests = self._requests()
        try:
            return requests, self.engine.tree.step(requests, owner=self.engine, exact=exact)
        except OutOfPages as error:
            if not any(draft.tokens for group in self.groups for draft in group.drafts):
                raise
            self._withdraw(error)
            requests = self._requests()
            return requests, self.engine.tree.step(requests, owner=self.engine, exact=exact)

    # -- forward -------------------------------------------------------------------------------------------

    def _watch(self, step: Step) -> None:
        """Begins to see the queries that recipes ask for."""
        keepers: dict[int, tuple[Keeper, list[int]]] = {}
        for place, request in enumerate(self.taken):
            if request.keeper is not None:
                keepers.setdefault(id(request.keeper), (request.keeper, []))[1].append(place)
        for keeper, places in keepers.values():
            own = [self.taken[place] for place in places]
            with blaming(own):
                rows = [step.rows[place] for place in places]
                self.observers.append((keeper, own, keeper.watch(step, rows, own)))

    def _graphs(self) -> StepGraphs | None:
        """The captured steps, where there are some and this step can be one."""
        graphs = self.engine.graphs
        if (
            graphs is None
            or self.chunks
            or self.observers
            or len(self.groups) != 1
            or self.groups[0].drafting.hidden_layers
            or any(request.options.logprobs is not None for request in self.decoding)
            or len({request.seed for request in self.decoding}) > 1
            or not graphs.fits(self.groups[0].drafting.options, self.groups[0].drafts)
        ):
            return None
        return graphs

    def _forward(self, step: Step, computed: Computed | None) -> Output:
        """The logits of all rows of decoding, in the order of the requests, then those of the last rows of
        prompts, or of all rows of those whose logits are asked for. ``computed`` is what is known of the rows
        of decoding already."""
        wanted: Any = None
        rows = step.rows
        order = rows[: len(self.decoding)]
        if self.chunks:
            for chunk, own in zip(self.chunks, rows[len(self.decoding) :], strict=True):
                chosen = chunk.rows_wanted
                order.append(own[chosen.start : chosen.stop])
            places = np.concatenate(order)
            wanted = torch.from_numpy(places if len(places) else np.zeros(1, np.int64))
        else:
            places = order[0] if len(order) == 1 else np.concatenate(order)
            if not np.array_equal(places, np.arange(len(places))):
                wanted = torch.from_numpy(places.copy())
                computed = None if computed is None else computed[torch.argsort(wanted)]
        hidden = bool(self._seers) or any(self.engine.group_of(r).hidden_layers for r in self.taken)
        observers = [(keeper, watch) for keeper, _, watch in self.observers if watch is not None]
        with ExitStack() as stack:
            for keeper, watch in observers:
                if keeper.is_press:
                    stack.enter_context(watch.seeing_inputs(self.engine.runner.shadow.model))
            return self.engine.forward(
                step,
                logits_rows=wanted,
                hidden=hidden,
                entry=computed,
                observer=_together([watch for _, watch in observers]),
                attend=row_recipes(step, self.decoding, self.chunks),
                prefill=next((chunk.prefill for chunk in self.chunks), None),
            )

    def _observe_cost(self, step: Step, computed: Computed | None, num_decoding: int, seconds: float) -> None:
        num_prompt = step.num_rows - num_decoding
        if not self.decoding:
            return
        self.engine.chunks.observe(self.engine, num_decoding, num_prompt, seconds)
        if num_prompt:
            return
        if computed is None:
            self.engine.observe_cost(step.num_rows, seconds)
        elif (whole := self.engine.cost_curve.seconds(step.num_rows)) is not None:
            self.groups[0].drafting.credit(max(whole - seconds, 0.0))

    # -- what comes of it --------------------------------------------------------------------------------

    def _verify(self, logits: torch.Tensor) -> None:
        """The verdict on every draft."""
        for group in self.groups:
            with blaming(group.requests):
                group.verdicts = group.drafting.verifier.verify(
                    group.requests, group.drafts, logits[group.rows]
                )

    def _first_tokens(self, logits: torch.Tensor) -> dict[int, int]:
        """The first token of every prompt that is complete, by its request's index; and of those whose logits
        are asked for, the log-probabilities of the prompt."""
        rows: dict[int, torch.Tensor] = {}
        begin = 0
        for chunk in self.chunks:
            request, count = chunk.request, len(chunk.rows_wanted)
            if count:
                request.take_logits(request.branch.length, logits[begin : begin + count])
                rows[request.index] = logits[begin + count - 1]
            begin += count
        tokens: dict[int, int] = {}
        groups: dict[int, tuple[Drafting, list[Request]]] = {}
        for chunk in self.first:
            drafting = self.engine.group_of(chunk.request)
            groups.setdefault(id(drafting), (drafting, []))[1].append(chunk.request)
        for drafting, requests in groups.values():
            with blaming(requests):
                batch = torch.stack([rows[request.index] for request in requests])
                found = self._sampled(requests, drafting, batch)
            for request, token, row in zip(requests, found, batch, strict=True):
                tokens[request.index] = token
                if request.options.logprobs is not None:
                    request.logprobs += token_entries([token], row[None], request.options.logprobs)
        return tokens

    def _sampled(self, requests: list[Request], drafting: Drafting, logits: torch.Tensor) -> list[int]:
        options = drafting.options
        if options.processor is not None:
            logits = torch.cat(
                [process(r, StepDraft(), row[None]) for r, row in zip(requests, logits, strict=True)]
            )
        return drafting.verifier.sample(requests, logits)

    def _cut(self, logits: torch.Tensor, first: dict[int, int]) -> list[Any]:
        """What every request emits when the step is committed, and the rows that stay."""
        paths: list[Any] = []
        wanted: list[Wanted] = []
        for group in self.groups:
            begin = group.rows.start
            for request, draft, verdict in zip(group.requests, group.drafts, group.verdicts, strict=True):
                fresh: list[tuple[int, Source]] = [
                    *((draft.tokens[index], "draft") for index in verdict.accepted),
                    (verdict.next_token, "plain"),
                ]
                pieces = self._cut_one(request, fresh, len(fresh))
                path = [0, *(index + 1 for index in verdict.accepted)][: len(pieces)]
                if request.options.logprobs is not None:
                    wanted.append((request, [piece.token for piece in pieces], [begin + row for row in path]))
                begin += 1 + len(draft.tokens)
                paths.append(path)
        take_entries(wanted, logits)
        for chunk in self.chunks:
            if chunk.request.index in first:
                self._cut_one(chunk.request, [(first[chunk.request.index], "plain")], len(chunk.token_ids))
            paths.append(range(len(chunk.token_ids)))
        return paths

    def _cut_one(self, request: Request, fresh: list[tuple[int, Source]], num_rows: int) -> list[Piece]:
        with blaming([request]):
            pieces = request.cut(fresh)
        rows = len(pieces) if request.is_read else num_rows
        request.fresh = pieces, request.branch.length + rows, len(request.output)
        return pieces

    def _keep(self, paths: list[Any]) -> None:
        """Runs recipes on what was committed."""
        keepers = {id(r.keeper): r.keeper for r in self.engine.requests if r.keeper is not None}
        if not keepers:
            return
        by_request = {request.index: path for request, path in zip(self.taken, paths, strict=True)}
        read = {chunk.request.index for chunk in self.chunks}
        rest = [r for r in self.waiting if not (r.index in read and r.num_committed == r.branch.length)]
        watched = {id(keeper): (own, watch) for keeper, own, watch in self.observers}
        begin = time.perf_counter()
        for number, keeper in keepers.items():
            own, watch = watched.get(number, ([], None))
            keeper.on_step(watch, own, [by_request[r.index] for r in own], rest)
        self._count("keep", begin)

    def _emit(self, step: Step, seconds: float) -> list[tuple[Request, list[Piece]]]:
        emitted = []
        for group in self.groups:
            for request, draft, verdict in zip(group.requests, group.drafts, group.verdicts, strict=True):
                trace = request.options.trace
                kinds = [] if trace is None else group.drafting.kinds(request, draft)
                pieces = request.emit()
                stats = request.stats
                stats.forward_passes += 1
                stats.rows += 1 + len(draft.tokens)
                stats.drafted += len(draft.tokens)
                stats.accepted += sum(piece.source == "draft" for piece in pieces)
                if trace is not None:
                    trace.step(request, draft, verdict, pieces, kinds, step.num_rows, seconds)
                emitted.append((request, pieces))
        for chunk in self.chunks:
            request = chunk.request
            if request.fresh is not None:
                emitted.append((request, request.emit()))
            else:
                if request.branch.length == request.num_committed:
                    request.read_to_the_end()
                emitted.append((request, []))
        return emitted

    def _count_seconds(self) -> None:
        for request in {id(r): r for r in [*self.taken, *self.waiting]}.values():
            seconds = request.stats.seconds
            for phase, spent in self.seconds.items():
                seconds[phase] = seconds.get(phase, 0.0) + spent


def _together(observers: list[QueryObserver]) -> Any:
    """One observer in place of several."""
    if len(observers) < 2:
        return observers[0] if observers else None

    def each(*arguments: Any) -> None:
        for observer in observers:
            observer(*arguments)

    return each
