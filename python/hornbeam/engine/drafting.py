"""From proposals to verified tokens: the part of a step that speculation owns."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from hornbeam import ops, speculation
from hornbeam.engine.step_draft import StepDraft, Verdict, parents_of
from hornbeam.errors import ArgumentError
from hornbeam.speculation import laws
from hornbeam.speculation.admission import admitted, check_count
from hornbeam.speculation.per_sequence import open_source
from hornbeam.speculation.protocols import Ask, Drafted, Nodes, Outcome, Proposer, Run
from hornbeam.speculation.stop.gate import Gate, levels

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.options import Options
    from hornbeam.engine.request import Request
    from hornbeam.model.layers import Computed

# A source alone decides on the size of its trees.
UNLIMITED_ROWS = 1 << 20

__all__ = ["Drafting", "history", "process"]


class Drafting:
    """The draft source and the stop rule of the requests that are drafted for and verified together."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self.engine = engine
        self.options = options
        source = options.draft
        self.source: Proposer | None = None
        self.is_ratio_test = False
        if source is not None:
            self.stop = options.length.start(engine.cost_curve)
            gate = self.stop if isinstance(self.stop, Gate) else None
            is_paced = options.length.needs_costs
            run = Run(engine, options.warp, options.seed, options.rule, options.processor, gate, is_paced)
            # A rule that weighs seconds has the source asked only where it is worth its own.
            if is_paced and not isinstance(source, (speculation.Auto, speculation.Union)):
                source = speculation.Union(source, rows=UNLIMITED_ROWS)
            self.source = open_source(source, run)
            if gate is not None:
                laws.check_gate(options.length, source, self.source)
                gate.attach(self.source)
            law = laws.law_of(self.source)
            laws.check_law(law, options.rule)
            self.is_ratio_test = laws.is_ratio_test(options.rule, law, options.warp.is_greedy)
            self.is_predictable = bool(getattr(options.length, "is_predictable", False))
            if self.is_ratio_test:
                laws.check_stop(options.length, self.source, options.rule)
        # What was proposed, what the stop rule judged, what it said, and where that lies in the proposals.
        self._proposed: list[Drafted] = []
        self._judged: Seq[Drafted] = []
        self._chosen: Seq[Nodes] = []
        self._places: list[list[int]] = []
        # Sequences of forks that the source does not know yet, and those of which no step was shown to it.
        self._unstarted: set[int] = set()
        self._unseen: set[int] = set()
        # Which of the last step's sequences the source was asked for.
        self._asked: list[int] = []

    @property
    def hidden_layers(self) -> tuple[int, ...]:
        """Whose hidden states the source wants to see."""
        return () if self.source is None else self.source.hidden_layers

    def start(self, request: Request) -> None:
        """Begins a sequence with what it holds."""
        if self.source is not None:
            self._unstarted.discard(request.index)
            self._unseen.add(request.index)
            self.source.start(request.index, request.committed)

    def fork(self, child: Request) -> None:
        """A sequence goes on from where another is. The source begins it with the next step, which has no
        draft of it."""
        if self.source is not None:
            self._unstarted.add(child.index)
            self._unseen.add(child.index)

    def finish(self, request: Request) -> None:
        """Ends a sequence."""
        if self.source is not None:
            if request.index not in self._unstarted:
                self.source.finish(request.index)
            self._unstarted.discard(request.index)
            self._unseen.discard(request.index)

    def propose(self, active: Seq[Request]) -> list[StepDraft]:
        """The drafts that are worth their rows in the next step, one a sequence."""
        drafts = [StepDraft() for _ in active]
        self._asked = [place for place, request in enumerate(active) if request.index not in self._unseen]
        if self.source is None or not self._asked:
            self._proposed, self._judged, self._chosen, self._places = [], [], [], []
            return drafts
        known = [active[place] for place in self._asked]
        for place, draft in zip(self._asked, self._propose(self.source, known), strict=True):
            drafts[place] = draft
        return drafts

    def _propose(self, source: Proposer, active: Seq[Request]) -> list[StepDraft]:
        asks = [
            Ask(
                s.index,
                s.number,
                s.pending,
                s.position,
                min(s.room - len(s.output) - 1, self.engine.max_positions - s.position, s.draft_room),
                s.prompt,
                s.output,
                s.branch,
                s.seed,
            )
            for s in active
        ]
        if self.is_ratio_test and not self.is_predictable:
            drafts = self._propose_outlines(asks)
        else:
            proposals = self._admitted(source.propose(asks), asks)
            self._judged = proposals
            self._chosen = self.stop.choose(proposals)
            drafts = [StepDraft.of(p, chosen) for p, chosen in zip(proposals, self._chosen, strict=True)]
            self._places = [draft.nodes for draft in drafts]
        if not self.is_ratio_test:
            return [replace(draft, logits=None) for draft in drafts]
        for draft in drafts:
            if draft.tokens and draft.logits is None:
                raise ArgumentError(
                    f"the draft declares the law {laws.law_of(self.source)!r} but gives no logits, "
                    f"expected those that its tokens were drawn from, since verify is {self.options.rule!r}"
                )
        return drafts

    def _admitted(self, proposals: Seq[Drafted], asks: Seq[Ask]) -> list[Drafted]:
        """What of the source's proposals is of this model; see :mod:`hornbeam.speculation.admission`."""
        name = type(self.options.draft).__name__
        check_count(proposals, len(asks), name)
        self._proposed = [
            admitted(
                proposal,
                name,
                vocab_size=self.engine.runner.shape.vocab_size,
                max_tokens=ask.max_tokens,
                law=laws.law_of(self.source),
                is_ratio_test=self.is_ratio_test,
            )
            for proposal, ask in zip(proposals, asks, strict=True)
        ]
        return self._proposed

    def _propose_outlines(self, asks: list[Ask]) -> list[StepDraft]:
        """Drafts whose extent is settled before a token is drawn."""
        source: Any = self.source
        outlines = [source.outline(ask) for ask in asks]
        if any(outline is None for outline in outlines):
            raise ArgumentError(
                f"length is {type(self.options.length).__name__}, and verify is {self.options.rule!r}, but "
                "the draft cannot say before its draws which tree it will draw; expected length=Fixed(...), "
                "or verify='coupled' or 'target_only'"
            )
        self._judged, self._chosen = outlines, self.stop.choose(outlines)
        wanted = [
            StepDraft.of(outline, chosen) for outline, chosen in zip(outlines, self._chosen, strict=True)
        ]
        limited = [
            replace(ask, max_tokens=min(ask.max_tokens, levels(draft.parents)))
            for ask, draft in zip(asks, wanted, strict=True)
        ]
        drafts, self._places = [], []
        for proposal, draft in zip(self._admitted(source.propose(limited), limited), wanted, strict=True):
            found = _same_places(draft, parents_of(proposal))
            drafts.append(StepDraft.of(proposal, [node for _, node in found]))
            self._places.append([draft.nodes[index] for index, _ in found])
        return drafts

    def withdraw(self, active: Seq[Request]) -> list[StepDraft]:
        """No drafts, where there is no room for their rows or for those that they are made with. The stop
        rule learns nothing of it."""
        self._judged, self._chosen, self._places = [], [], []
        return [StepDraft() for _ in active]

    def reuse(self, drafts: Seq[StepDraft]) -> Computed | None:
        """What the source computed of the rows ``[pending, *tokens]`` of every draft, in their order."""
        if (reuse := getattr(self.source, "reuse", None)) is None or len(self._asked) < len(drafts):
            return None
        chosen = []
        for draft, proposal in zip(drafts, self._proposed, strict=True):
            origin = getattr(proposal, "origin", None)
            chosen.append(draft.nodes if origin is None else [origin[node] for node in draft.nodes])
        computed: Computed | None = reuse(chosen)
        return computed

    def credit(self, seconds: float) -> None:
        """Tells the source what the forward pass saved by :meth:`reuse`."""
        if (credit := getattr(self.source, "credit", None)) is not None:
            credit(seconds)

    def verify(self, active: Seq[Request], drafts: Seq[StepDraft], logits: torch.Tensor) -> list[Verdict]:
        """Decides from the logits of the rows ``[pending, *tokens]`` of every draft, in their order."""
        # What was chosen, not drawn, is accepted where a draw from the target says the same.
        rule = self.options.rule
        if rule in laws.RATIO_TESTS and not self.is_ratio_test:
            rule = "coupled"
        parts = list(torch.split(logits, [1 + len(draft.tokens) for draft in drafts]))
        if self.options.processor is not None:
            if rule == "coupled":
                return self._follow(active, drafts, parts)
            parts = [process(s, d, part) for s, d, part in zip(active, drafts, parts, strict=True)]
            logits = torch.cat(parts)
        if not self.is_ratio_test:
            return self._verify(active, drafts, logits, None, rule)
        # A sequence without a draft reads no row of one: zeros stand for it, so that one call serves all.
        given = [draft.logits for draft in drafts if draft.logits is not None]
        columns = given[0].shape[1] if given else logits.shape[1]
        blank = torch.zeros(
            (1, columns), dtype=given[0].dtype if given else logits.dtype, device=logits.device
        )
        rows = [blank if draft.logits is None else draft.logits.to(logits.device) for draft in drafts]
        return self._verify(active, drafts, logits, torch.cat(rows), rule)

    def _verify(
        self,
        active: Seq[Request],
        drafts: Seq[StepDraft],
        logits: torch.Tensor,
        draft_logits: torch.Tensor | None,
        rule: str,
    ) -> list[Verdict]:
        """One call of :func:`hornbeam.ops.verify` a seed."""
        groups = by_seed([request.seed for request in active])
        if len(groups) > 1:
            sizes = [1 + len(draft.tokens) for draft in drafts]
            parts = torch.split(logits, sizes)
            draft_parts = None if draft_logits is None else torch.split(draft_logits, sizes)
            verdicts: dict[int, Verdict] = {}
            for group in groups:
                own = None if draft_parts is None else torch.cat([draft_parts[i] for i in group])
                rows = torch.cat([parts[i] for i in group])
                found = self._verify([active[i] for i in group], [drafts[i] for i in group], rows, own, rule)
                verdicts.update(zip(group, found, strict=True))
            return [verdicts[i] for i in range(len(active))]
        offsets = [0]
        for draft in drafts:
            offsets.append(offsets[-1] + len(draft.tokens))
        verified = ops.verify(
            torch.tensor([token for draft in drafts for token in draft.tokens], dtype=torch.int64),
            torch.tensor([parent for draft in drafts for parent in draft.parents], dtype=torch.int32),
            torch.tensor(offsets, dtype=torch.int32),
            logits,
            draft_logits,
            rule=rule,
            warp=self.options.warp,
            draft_warp=self.options.warp,
            seed=active[0].seed,
            sequences=torch.tensor([s.number for s in active], dtype=torch.int64),
            positions=torch.tensor([s.position for s in active], dtype=torch.int64),
            history=history(active, self.options),
        )
        return [Verdict([row - 1 for row in rows], token) for rows, token in verified.paths()]

    def _follow(
        self, active: Seq[Request], drafts: Seq[StepDraft], parts: Seq[torch.Tensor]
    ) -> list[Verdict]:
        """The coupled rule level by level, so that the processor sees no row but those on the walk."""
        paths: list[list[int]] = [[] for _ in active]
        verdicts: dict[int, Verdict] = {}
        walking = list(range(len(active)))
        while walking:
            rows = []
            for i in walking:
                at = _last(paths[i])
                rows.append(process_row(active[i], drafts[i].path(at), parts[i][at + 1]))
            tokens = self.sample(
                [active[i] for i in walking],
                torch.cat(rows),
                [drafts[i].path(_last(paths[i])) for i in walking],
            )
            still = []
            for i, token in zip(walking, tokens, strict=True):
                child = drafts[i].child(_last(paths[i]), token)
                if child is None:
                    verdicts[i] = Verdict(paths[i], token)
                else:
                    paths[i].append(child)
                    still.append(i)
            walking = still
        return [verdicts[i] for i in range(len(active))]

    def sample(
        self, active: Seq[Request], logits: torch.Tensor, paths: Seq[list[int]] | None = None
    ) -> list[int]:
        """The token after each output, or after the tokens of ``paths`` that follow it: one row of ``logits``
        each. One call of :func:`hornbeam.ops.sample_ids` a seed."""
        follow = [[] for _ in active] if paths is None else paths
        tokens: dict[int, int] = {}
        for group in by_seed([request.seed for request in active]):
            own = [active[i] for i in group]
            found = ops.sample_ids(
                logits if len(group) == len(active) else logits[group],
                self.options.warp,
                seed=own[0].seed,
                sequences=torch.tensor([request.number for request in own], dtype=torch.int64),
                positions=torch.tensor([active[i].position + len(follow[i]) for i in group]),
                history=history(own, self.options, [follow[i] for i in group]),
            )
            tokens.update(zip(group, found, strict=True))
        return [tokens[i] for i in range(len(active))]

    def meet(self, requests: Seq[Request]) -> None:
        """Begins those of a step's sequences that the source does not know, before its tokens are emitted."""
        if self.source is not None:
            for request in requests:
                if request.index in self._unstarted:
                    self.start(request)
                self._unseen.discard(request.index)

    def observe(self, outcomes: Seq[Outcome]) -> None:
        """Tells the source what a forward pass did."""
        if self.source is not None:
            self.source.observe(outcomes)

    def kinds(self, sequence: Request, draft: StepDraft) -> list[str]:
        """Where each token of a draft came from, by name."""
        named = getattr(self.source, "kind_of", None)
        if named is None:
            return [type(self.options.draft).__name__] * len(draft.tokens)
        return [named(sequence.index, draft.path(index)) for index in range(len(draft.tokens))]

    def judge(self, drafts: Seq[StepDraft], verdicts: Seq[Verdict]) -> None:
        """Tells the stop rule how the verification went."""
        if self.source is None or not self._judged:
            return
        verdicts = [verdicts[place] for place in self._asked]
        accepted: list[Nodes] = []
        for judged, places, verdict in zip(self._judged, self._places, verdicts, strict=True):
            is_tree = getattr(judged, "parents", None) is not None
            accepted.append([places[i] for i in verdict.accepted] if is_tree else len(verdict.accepted))
        # The tokens of an outline are none that could be compared with the target's.
        is_outline = self.is_ratio_test and not self.is_predictable
        next_tokens = None if is_outline else [verdict.next_token for verdict in verdicts]
        self.stop.observe(self._judged, self._chosen, accepted, next_tokens)


def by_seed(seeds: Seq[int]) -> list[list[int]]:
    """The places of equal seeds."""
    groups: dict[int, list[int]] = {}
    for place, seed in enumerate(seeds):
        groups.setdefault(seed, []).append(place)
    return list(groups.values())


def _last(path: list[int]) -> int:
    return path[-1] if path else -1


def _same_places(outline: StepDraft, parents: Seq[int]) -> list[tuple[int, int]]:
    """(token of the outline, token of the tree) that lie at the same place: the same child of the same
    token. A law with few tokens left draws fewer than the outline has."""
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(parents):
        children.setdefault(parent, []).append(node)
    places, taken = {-1: -1}, dict.fromkeys(range(-1, len(parents)), 0)
    for index, parent in enumerate(outline.parents):
        above = places.get(parent)
        if above is not None and taken[above] < len(children.get(above, ())):
            places[index] = children[above][taken[above]]
            taken[above] += 1
    del places[-1]
    return sorted(places.items(), key=lambda place: place[1])


def process_row(sequence: Request, path: list[int], row: torch.Tensor) -> torch.Tensor:
    """Applies the caller's processor to the logits ``[V]`` after the tokens of ``path``: ``[1, V]``."""
    processor = sequence.options.processor
    assert processor is not None
    seen = torch.tensor([[*sequence.prompt, *sequence.output, *path]], dtype=torch.int64, device=row.device)
    return processor(seen, row[None].float())


def process(sequence: Request, draft: StepDraft, logits: torch.Tensor) -> torch.Tensor:
    """Applies the caller's processor to the rows ``[pending, *tokens]`` that a walk can visit, each with
    the tokens on its path. A row below a token that the processor rules out stays as it is."""
    rows = [process_row(sequence, [], logits[0])]
    is_reachable = [True]
    for index, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True)):
        above = rows[parent + 1]
        inside = token < above.shape[1]
        is_reachable.append(is_reachable[parent + 1] and inside and float(above[0, token]) > -float("inf"))
        row = logits[index + 1]
        rows.append(process_row(sequence, draft.path(index), row) if is_reachable[-1] else row[None].float())
    return torch.cat(rows)


def history(
    active: Seq[Request], options: Options, paths: Seq[list[int]] | None = None
) -> list[tuple[list[int], list[int]]] | None:
    """Prompts and outputs, those of ``paths`` included, where the warp has penalties that read them."""
    if not options.warp.has_penalties:
        return None
    if paths is None:
        return [(s.prompt, s.output) for s in active]
    return [(s.prompt, s.output + path) for s, path in zip(active, paths, strict=True)]
