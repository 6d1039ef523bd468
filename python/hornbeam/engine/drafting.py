"""From proposals to verified tokens: the part of a step that speculation owns."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import TYPE_CHECKING

from hornbeam.engine.verifying import Verifier, masking
from hornbeam.errors import ArgumentError
from hornbeam.speculation import laws
from hornbeam.speculation.declarations import StopTraits, is_self_paced, origin_of, parents_of
from hornbeam.speculation.draft.union import Union
from hornbeam.speculation.protocols import Ask, Drafted, Nodes, Others, Outcome, Run
from hornbeam.speculation.source import Source
from hornbeam.speculation.step_draft import StepDraft, Verdict, filled_parents
from hornbeam.speculation.stop.gate import levels

if TYPE_CHECKING:
    from hornbeam.engine.options import Options
    from hornbeam.engine.request import Request
    from hornbeam.engine.requests import Requests
    from hornbeam.model.layers import Computed

# A source alone decides on the size of its trees.
UNLIMITED_ROWS = 1 << 20

__all__ = ["Drafting"]


class Drafting:
    """The draft source and the stop rule of the requests that are drafted for and verified together."""

    def __init__(self, engine: Requests, options: Options) -> None:
        self.engine = engine
        self.options = options
        draft = options.draft
        self.source: Source | None = None
        self.is_ratio_test = False
        if draft is not None:
            traits = StopTraits.of(options.length)
            self.stop = options.length.start(engine.cost_curve)
            gate = self.stop if traits.is_gate else None
            run = Run(engine, options.warp, options.seed, options.rule, gate, traits.needs_costs)
            # A rule that weighs seconds has the source asked only where it is worth its own.
            if traits.needs_costs and not is_self_paced(draft):
                draft = Union(draft, rows=UNLIMITED_ROWS)
            self.source = Source(draft, run)
            if gate is not None:
                laws.check_gate(traits, self.source)
                gate.attach(self.source.proposer)
            laws.check_law(self.source.law, options.rule)
            self.is_ratio_test = self.source.is_ratio_test
            self.is_predictable = traits.is_predictable
            self.sees_others = traits.sees_others
            if self.is_ratio_test:
                laws.check_stop(traits, self.source, options.rule)
        self.verifier = Verifier(options, self.is_ratio_test)
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
            self.source.start(request.index, request.committed, request.options.prediction)

    def fork(self, request: Request, child: Request) -> None:
        """A sequence goes on from where another is. A source that cannot fork begins it with the next step,
        which has no draft of it."""
        if self.source is None:
            return
        is_known = request.index not in self._unstarted
        if is_known and self.source.fork(request.index, child.index):
            if request.index in self._unseen:
                self._unseen.add(child.index)
        else:
            self._unstarted.add(child.index)
            self._unseen.add(child.index)

    def finish(self, request: Request) -> None:
        """Ends a sequence."""
        if self.source is not None:
            if request.index not in self._unstarted:
                self.source.finish(request.index)
            self._unstarted.discard(request.index)
            self._unseen.discard(request.index)

    def propose(self, active: Seq[Request], others: Others) -> list[StepDraft]:
        """The drafts that are worth their rows in the next step, one a sequence, beside what it computes for
        others."""
        drafts = [StepDraft() for _ in active]
        self._asked = [place for place, request in enumerate(active) if request.index not in self._unseen]
        if self.source is None or not self._asked:
            self._proposed, self._judged, self._chosen, self._places = [], [], [], []
            return drafts
        known = [active[place] for place in self._asked]
        others = replace(others, sequences=others.sequences + len(active) - len(known))
        for place, draft in zip(self._asked, self._propose(self.source, known, others), strict=True):
            drafts[place] = draft
        return drafts

    def _propose(self, source: Source, active: Seq[Request], others: Others) -> list[StepDraft]:
        if self.sees_others:
            self.stop.see_others(others.sequences, others.rows)
        asks = [
            Ask(
                s.index,
                s.number,
                s.pending,
                s.position,
                min(
                    min(s.room, s.pauses_at) - len(s.output) - 1,
                    self.engine.max_positions - s.position,
                    s.draft_room,
                ),
                s.prompt,
                s.output,
                s.branch,
                s.seed,
                others,
                masking(s),
            )
            for s in active
        ]
        if self.is_ratio_test and not self.is_predictable:
            drafts = self._propose_outlines(source, asks)
        else:
            proposals = self._proposed = source.propose(asks)
            self._judged = proposals
            self._chosen = self.stop.choose(proposals)
            drafts = [StepDraft.of(p, chosen) for p, chosen in zip(proposals, self._chosen, strict=True)]
            self._places = [draft.nodes for draft in drafts]
        if not self.is_ratio_test:
            return [replace(draft, logits=None) for draft in drafts]
        for draft in drafts:
            if draft.tokens and draft.logits is None:
                raise ArgumentError(
                    f"the draft declares the law {source.law!r} but gives no logits, expected those that "
                    f"its tokens were drawn from, since verify is {self.options.rule.name!r}"
                )
        return drafts

    def _propose_outlines(self, source: Source, asks: list[Ask]) -> list[StepDraft]:
        """Drafts whose extent is settled before a token is drawn."""
        assert source.outline is not None, "the source has no outlines"
        found = [source.outline(ask) for ask in asks]
        outlines = [outline for outline in found if outline is not None]
        if len(outlines) < len(found):
            raise ArgumentError(
                f"length is {type(self.options.length).__name__}, and verify is {self.options.rule.name!r}, "
                "but the draft cannot say before its draws which tree it will draw; expected "
                "length=Fixed(...), or verify='coupled' or 'target_only'"
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
        self._proposed = source.propose(limited)
        for proposal, draft in zip(self._proposed, wanted, strict=True):
            pairs = _same_places(draft, filled_parents(proposal))
            drafts.append(StepDraft.of(proposal, [node for _, node in pairs]))
            self._places.append([draft.nodes[index] for index, _ in pairs])
        return drafts

    def withdraw(self, active: Seq[Request]) -> list[StepDraft]:
        """No drafts, where there is no room for their rows or for those that they are made with. The stop
        rule learns nothing of it."""
        self._judged, self._chosen, self._places = [], [], []
        return [StepDraft() for _ in active]

    def reuse(self, drafts: Seq[StepDraft]) -> Computed | None:
        """What the source computed of the rows ``[pending, *tokens]`` of every draft, in their order."""
        if self.source is None or self.source.reuse is None or len(self._asked) < len(drafts):
            return None
        chosen = []
        for draft, proposal in zip(drafts, self._proposed, strict=True):
            origin = origin_of(proposal)
            chosen.append(draft.nodes if origin is None else [origin[node] for node in draft.nodes])
        computed: Computed | None = self.source.reuse(chosen)
        return computed

    def waive(self) -> None:
        """Nothing that the source computed is used: it lets go of it, and of the pages that hold it."""
        if self.source is not None and self.source.reuse is not None:
            self.source.reuse([])

    def credit(self, seconds: float) -> None:
        """Tells the source what the forward pass saved by :meth:`reuse`."""
        if self.source is not None:
            self.source.credit(seconds)

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
        if self.source is None:
            return []
        nodes = range(len(draft.tokens))
        return [self.source.kind_of(sequence.index, draft.path(index)) for index in nodes]

    def judge(self, drafts: Seq[StepDraft], verdicts: Seq[Verdict]) -> None:
        """Tells the stop rule how the verification went."""
        if self.source is None or not self._judged:
            return
        verdicts = [verdicts[place] for place in self._asked]
        accepted: list[Nodes] = []
        for judged, places, verdict in zip(self._judged, self._places, verdicts, strict=True):
            is_tree = parents_of(judged) is not None
            accepted.append([places[i] for i in verdict.accepted] if is_tree else len(verdict.accepted))
        # The tokens of an outline are none that could be compared with the target's.
        is_outline = self.is_ratio_test and not self.is_predictable
        next_tokens = None if is_outline else [verdict.next_token for verdict in verdicts]
        self.stop.observe(self._judged, self._chosen, accepted, next_tokens)


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
