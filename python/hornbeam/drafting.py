"""From proposals to verified tokens: the part of a step that speculation owns."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from hornbeam import cuda, ops, spec
from hornbeam.errors import ArgumentError
from hornbeam.spec import laws
from hornbeam.spec.admission import admitted, check_count
from hornbeam.spec.gate import Gate, levels
from hornbeam.spec.protocols import Ask, Drafted, Nodes, Outcome, Proposer, Run
from hornbeam.spec.separate import open_source

if TYPE_CHECKING:
    from hornbeam.layers import Computed
    from hornbeam.lm import LM
    from hornbeam.sequence import Options, Sequence

# A source alone decides on the size of its trees.
MOST_ROWS = 1 << 20

__all__ = ["Draft", "Drafting", "Verdict", "history", "process"]


@dataclass(frozen=True)
class Draft:
    """One sequence's draft in one step: a tree of tokens below the pending one.

    ``parents[i]`` is the index of token ``i``'s parent, before it, or -1 for a child of the pending token.
    ``logits`` are those that the tokens were drawn from, ``[1 + len(tokens), V]``, where a ratio test
    wants them. ``nodes[i]`` is the token's index in the proposal that it comes from.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    logits: torch.Tensor | None = None
    nodes: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, proposal: Drafted, chosen: Nodes) -> Draft:
        """The chosen tokens of a proposal."""
        nodes = list(range(chosen)) if isinstance(chosen, int) else list(chosen)
        tokens = proposal.tokens
        parents = _parents(proposal)
        index = {node: i for i, node in enumerate(nodes)} | {-1: -1}
        for node in nodes:
            if not 0 <= node < len(tokens) or parents[node] not in index:
                raise ArgumentError(
                    f"the stop rule chose tokens {nodes} of a draft with parents {parents}, "
                    "expected tokens whose parents are chosen"
                )
        logits = getattr(proposal, "logits", None)
        if logits is not None and len(nodes) < len(tokens):
            if nodes == list(range(len(nodes))):
                logits = logits[: 1 + len(nodes)]
            else:
                [rows] = cuda.upload([torch.tensor([0, *(node + 1 for node in nodes)])], logits.device)
                logits = logits[rows]
        return cls([tokens[node] for node in nodes], [index[parents[node]] for node in nodes], logits, nodes)

    @property
    def is_chain(self) -> bool:
        """Whether no token has two children."""
        return all(parent == index - 1 for index, parent in enumerate(self.parents))

    def rows(self, pending: int) -> tuple[list[int], list[int] | None]:
        """Tokens and parents of the request: the pending token, then the draft."""
        parents = None if self.is_chain else [-1, *(parent + 1 for parent in self.parents)]
        return [pending, *self.tokens], parents

    def path(self, index: int) -> list[int]:
        """The tokens from below the pending one to token ``index``, which is -1 for none."""
        found = []
        while index >= 0:
            found.append(self.tokens[index])
            index = self.parents[index]
        return found[::-1]

    def child(self, index: int, token: int) -> int | None:
        """The first child of token ``index``, or of the pending one for -1, that holds ``token``."""
        for at, parent in enumerate(self.parents):
            if parent == index and self.tokens[at] == token:
                return at
        return None


@dataclass(frozen=True)
class Verdict:
    """What verification says of one draft: the indices of the tokens kept, along one path, and the token
    that the target gives after them."""

    accepted: list[int]
    next_token: int


class Drafting:
    """The draft source and the stop rule of one run."""

    def __init__(self, lm: LM, options: Options) -> None:
        self.lm = lm
        self.options = options
        source = options.draft
        self.source: Proposer | None = None
        self.is_ratio_test = False
        if source is not None:
            self.stop = options.length.start(lm.cost_curve)
            gate = self.stop if isinstance(self.stop, Gate) else None
            is_paced = options.length.needs_costs
            run = Run(lm, options.warp, options.seed, options.rule, options.processor, gate, is_paced)
            # A rule that weighs seconds has the source asked only where it is worth its own.
            if is_paced and not isinstance(source, (spec.Auto, spec.Union)):
                source = spec.Union(source, rows=MOST_ROWS)
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

    @property
    def hidden_layers(self) -> tuple[int, ...]:
        """Whose hidden states the source wants to see."""
        return () if self.source is None else self.source.hidden_layers

    def start(self, sequence: Sequence) -> None:
        """Begins a sequence with what it holds."""
        if self.source is not None:
            self.source.start(sequence.index, sequence.committed)

    def finish(self, sequence: Sequence) -> None:
        """Ends a sequence."""
        if self.source is not None:
            self.source.finish(sequence.index)

    def propose(self, active: Seq[Sequence]) -> list[Draft]:
        """The drafts that are worth their rows in the next step, one a sequence."""
        if self.source is None:
            return [Draft() for _ in active]
        asks = [
            Ask(
                s.index,
                s.number,
                s.pending,
                s.position,
                min(s.room - len(s.output) - 1, self.lm.max_positions - s.position, s.draft_room),
                s.prompt,
                s.output,
                s.branch,
            )
            for s in active
        ]
        if self.is_ratio_test and not self.is_predictable:
            drafts = self._propose_outlines(asks)
        else:
            proposals = self._admitted(self.source.propose(asks), asks)
            self._judged = proposals
            self._chosen = self.stop.choose(proposals)
            drafts = [Draft.of(p, chosen) for p, chosen in zip(proposals, self._chosen, strict=True)]
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
        """What of the source's proposals is of this model; see :mod:`hornbeam.spec.admission`."""
        name = type(self.options.draft).__name__
        check_count(proposals, len(asks), name)
        self._proposed = [
            admitted(
                proposal,
                name,
                vocab_size=self.lm.runner.shape.vocab_size,
                max_tokens=ask.max_tokens,
                law=laws.law_of(self.source),
                is_ratio_test=self.is_ratio_test,
            )
            for proposal, ask in zip(proposals, asks, strict=True)
        ]
        return self._proposed

    def _propose_outlines(self, asks: list[Ask]) -> list[Draft]:
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
        wanted = [Draft.of(outline, chosen) for outline, chosen in zip(outlines, self._chosen, strict=True)]
        limited = [
            replace(ask, max_tokens=min(ask.max_tokens, levels(draft.parents)))
            for ask, draft in zip(asks, wanted, strict=True)
        ]
        drafts, self._places = [], []
        for proposal, draft in zip(self._admitted(source.propose(limited), limited), wanted, strict=True):
            found = _same_places(draft, _parents(proposal))
            drafts.append(Draft.of(proposal, [node for _, node in found]))
            self._places.append([draft.nodes[index] for index, _ in found])
        return drafts

    def withdraw(self, active: Seq[Sequence]) -> list[Draft]:
        """No drafts, where there is no room for their rows or for those that they are made with. The stop
        rule learns nothing of it."""
        self._judged, self._chosen, self._places = [], [], []
        return [Draft() for _ in active]

    def reuse(self, drafts: Seq[Draft]) -> Computed | None:
        """What the source computed of the rows ``[pending, *tokens]`` of every draft, in their order."""
        if (reuse := getattr(self.source, "reuse", None)) is None:
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

    def verify(self, active: Seq[Sequence], drafts: Seq[Draft], logits: torch.Tensor) -> list[Verdict]:
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
        active: Seq[Sequence],
        drafts: Seq[Draft],
        logits: torch.Tensor,
        draft_logits: torch.Tensor | None,
        rule: str,
    ) -> list[Verdict]:
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
            seed=self.options.seed,
            sequences=torch.tensor([s.number for s in active], dtype=torch.int64),
            positions=torch.tensor([s.position for s in active], dtype=torch.int64),
            history=history(active, self.options),
        )
        return [Verdict([row - 1 for row in rows], token) for rows, token in verified.paths()]

    def _follow(self, active: Seq[Sequence], drafts: Seq[Draft], parts: Seq[torch.Tensor]) -> list[Verdict]:
        """The coupled rule level by level, so that the processor sees no row but those on the walk."""
        paths: list[list[int]] = [[] for _ in active]
        verdicts: dict[int, Verdict] = {}
        walking = list(range(len(active)))
        while walking:
            rows = []
            for i in walking:
                at = _last(paths[i])
                rows.append(process_row(active[i], drafts[i].path(at), parts[i][at + 1]))
            sequences = [active[i] for i in walking]
            tokens = ops.sample_ids(
                torch.cat(rows),
                self.options.warp,
                seed=self.options.seed,
                sequences=torch.tensor([s.number for s in sequences], dtype=torch.int64),
                positions=torch.tensor([active[i].position + len(paths[i]) for i in walking]),
                history=history(sequences, self.options, [drafts[i].path(_last(paths[i])) for i in walking]),
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

    def observe(self, outcomes: Seq[Outcome]) -> None:
        """Tells the source what a forward pass did."""
        if self.source is not None:
            self.source.observe(outcomes)

    def kinds(self, sequence: Sequence, draft: Draft) -> list[str]:
        """Where each token of a draft came from, by name."""
        named = getattr(self.source, "kind_of", None)
        if named is None:
            return [type(self.options.draft).__name__] * len(draft.tokens)
        return [named(sequence.index, draft.path(index)) for index in range(len(draft.tokens))]

    def judge(self, drafts: Seq[Draft], verdicts: Seq[Verdict]) -> None:
        """Tells the stop rule how the verification went."""
        if self.source is None or not self._judged:
            return
        accepted: list[Nodes] = []
        for judged, places, verdict in zip(self._judged, self._places, verdicts, strict=True):
            is_tree = getattr(judged, "parents", None) is not None
            accepted.append([places[i] for i in verdict.accepted] if is_tree else len(verdict.accepted))
        # The tokens of an outline are none that could be compared with the target's.
        is_outline = self.is_ratio_test and not self.is_predictable
        next_tokens = None if is_outline else [verdict.next_token for verdict in verdicts]
        self.stop.observe(self._judged, self._chosen, accepted, next_tokens)


def _last(path: list[int]) -> int:
    return path[-1] if path else -1


def _parents(proposal: Drafted) -> Seq[int]:
    parents: Seq[int] | None = getattr(proposal, "parents", None)
    return range(-1, len(proposal.tokens) - 1) if parents is None else parents


def _same_places(outline: Draft, parents: Seq[int]) -> list[tuple[int, int]]:
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


def process_row(sequence: Sequence, path: list[int], row: torch.Tensor) -> torch.Tensor:
    """Applies the caller's processor to the logits ``[V]`` after the tokens of ``path``: ``[1, V]``."""
    processor = sequence.options.processor
    assert processor is not None
    seen = torch.tensor([[*sequence.prompt, *sequence.output, *path]], dtype=torch.int64, device=row.device)
    return processor(seen, row[None].float())


def process(sequence: Sequence, draft: Draft, logits: torch.Tensor) -> torch.Tensor:
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
    active: Seq[Sequence], options: Options, paths: Seq[list[int]] | None = None
) -> list[tuple[list[int], list[int]]] | None:
    """Prompts and outputs, those of ``paths`` included, where the warp has penalties that read them."""
    if not options.warp.has_penalties:
        return None
    if paths is None:
        return [(s.prompt, s.output) for s in active]
    return [(s.prompt, s.output + path) for s, path in zip(active, paths, strict=True)]
