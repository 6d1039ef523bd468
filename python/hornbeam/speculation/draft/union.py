"""Several draft sources, merged into one tree under one budget of rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from hornbeam._native import Signals
from hornbeam.errors import ArgumentError
from hornbeam.speculation.declarations import depends_on_length, lms_of, takes_prediction
from hornbeam.speculation.draft.merged_tree import CONFIDENCES, Tree, cut
from hornbeam.speculation.draft.payoff import Payoff, UnionMemory
from hornbeam.speculation.protocols import Ask, Drafted, Law, Others, Outcome, Run
from hornbeam.speculation.source import Source
from hornbeam.speculation.tree_building import DraftTree

if TYPE_CHECKING:
    from hornbeam.speculation.protocols import HasEngine

__all__ = ["Union", "UnionMemory"]


@dataclass(frozen=True, init=False)
class Union:
    """Merges the drafts of several sources into one tree: equal paths become one, and of all of them the
    ``rows`` tokens of best expected gain are kept, parents first.

    What a token is worth is learned by the sources that propose it, their confidence and its depth;
    the text that follows judges every proposed token on its path, verified or not. A source is asked where
    its tokens save more than it takes: a token is saved by the cheapest source that proposed it, verified
    rows cost what the measured curve says, and how well the cheaper sources guess already tells one step
    from another. A source that does not pay is asked as often as a half per cent of the time allows.
    So a union does not lose what its best parts gain, and a union of one does not lose to no draft.
    A stop rule that weighs no seconds (``needs_costs = False``) has every source asked in every step.

    What is learned is kept with the model, for all unions of equal settings.

    The text is the target's under ``coupled`` and ``target_only``. A ratio test needs one law of draws
    for a whole tree and is refused, unless every source is deterministic, or there is but one.

    Args:
        drafts: sources, those that work by sequence and those that work by run.
        rows: most tokens in a merged tree.

    Raises:
        ArgumentError: without a source, or if ``rows`` is below 1.
    """

    is_self_paced: ClassVar[bool] = True

    drafts: tuple[Any, ...]
    rows: int = 64

    def __init__(self, *drafts: Any, rows: int = 64) -> None:
        if not drafts:
            raise ArgumentError("a union has no drafts, expected at least one")
        if rows < 1:
            raise ArgumentError(f"rows is {rows}, expected at least 1")
        object.__setattr__(self, "drafts", drafts)
        object.__setattr__(self, "rows", rows)

    @property
    def lms(self) -> tuple[HasEngine, ...]:
        """The models that are used beside the target."""
        return tuple(lm for draft in self.drafts for lm in lms_of(draft))

    @property
    def takes_prediction(self) -> bool:
        """Whether one of the sources draws on a prediction."""
        return any(takes_prediction(draft) for draft in self.drafts)

    def open(self, run: Run) -> UnionProposer:
        """Begins a run of every source."""
        return UnionProposer(self, run)


@dataclass
class Last:
    """The latest proposals of a sequence, by source, and where they began. They are merged when needed."""

    proposals: list[tuple[int, Drafted]]
    position: int
    tree: Tree | None = None

    def merged(self, max_tokens: int) -> Tree:
        """The merged tree, at least so deep."""
        if self.tree is not None:
            return self.tree
        tree = Tree()
        for number, drafted in self.proposals:
            tree.add(drafted, number, max_tokens)
        return tree


class Kind(NamedTuple):
    """What tells one step from another for a source: how sure the guesses of cheaper ones are, how large the
    batch is, and the octave of the text's length, or 0 where the source does not depend on it."""

    strength: int
    batch: int
    octave: int


@dataclass
class Asked:
    """A source in one step: the kinds of the sequences that it was asked for, and what that took."""

    kinds: dict[int, Kind] = field(default_factory=dict)
    seconds: float = 0.0
    #: Whether the seconds are those of an ordinary draft: something was wanted, and nothing had to be
    #: caught up with.
    is_typical: bool = True


class UnionProposer:
    """:class:`Union` at work."""

    def __init__(self, settings: Union, run: Run) -> None:
        self.settings = settings
        self.run = run
        self.sources = [Source(draft, run) for draft in settings.drafts]
        layers = sorted({layer for source in self.sources for layer in source.hidden_layers})
        self.hidden_layers = tuple(layers)
        self._columns = [[layers.index(layer) for layer in s.hidden_layers] for s in self.sources]
        memory = run.target.union_memories.setdefault(repr(settings), UnionMemory(len(self.sources)))
        self._chances, self._payoffs, self._by_length = memory.chances, memory.payoffs, memory.by_length
        self._depends_on_length = [depends_on_length(draft) for draft in settings.drafts]
        self._last: dict[int, Last] = {}
        self._asked: dict[int, Asked] = {}
        # Of each source and sequence: what it would have saved, had it caught up with the text.
        self._forgone: dict[tuple[int, int], float] = {}
        # Sequences of the step, those of others included, and what else it computes for others.
        self._num_sequences, self._other_rows = 0, 0
        # Whether the only source is to be asked for a sequence, if that was settled for an outline.
        self._settled: dict[int, Kind | None] = {}
        # A draft that goes on into the verification is one for all sequences of a step.
        self._is_whole = [source.reuse is not None for source in self.sources]
        # A single source may offer all that it would offer without a union.
        only = self.sources[0] if len(self.sources) == 1 else None
        self.outline = None if only is None or only.outline is None else self._outline
        self.reuse = None if only is None else only.reuse

    @property
    def law(self) -> Law:
        """Deterministic if every source is; that of a single source."""
        if len(self.sources) == 1:
            return self.sources[0].law
        drawn = any(source.law != "deterministic" for source in self.sources)
        return "mixed" if drawn else "deterministic"

    def start(self, index: int, prompt_ids: Sequence[int], prediction: Sequence[int] = ()) -> None:
        """Begins a sequence in every source."""
        for source in self.sources:
            source.start(index, prompt_ids, prediction)

    def fork(self, index: int, child: int) -> bool:
        """Begins a sequence where another is, in every source; where one cannot, in none."""
        forked: list[Source] = []
        for source in self.sources:
            if not source.fork(index, child):
                for other in forked:
                    other.finish(child)
                return False
            forked.append(source)
        if index in self._last:
            self._last[child] = self._last[index]
        return True

    def _outline(self, ask: Ask) -> Drafted | None:
        """The outline of the only source, or an empty one where it is not worth asking."""
        outline = self.sources[0].outline
        assert outline is not None, "the source has no outlines"
        num_sequences = 1 + ask.others.sequences
        kind = self._kind(0, [], num_sequences, ask.position)
        if self._settled and self._is_whole[0]:
            is_due = next(iter(self._settled.values())) is not None
        else:
            is_due = self._is_due(0, ask, kind, self._token_seconds(num_sequences))
        self._settled[ask.index] = kind if is_due else None
        return outline(ask) if is_due else DraftTree([], Signals([]), [])

    def propose(self, asks: Sequence[Ask]) -> list[Any]:
        """One merged tree for each ask."""
        for ask in asks:
            self._judge(ask)
        others = asks[0].others if asks else Others()
        self._num_sequences, self._other_rows = len(asks) + others.sequences, others.rows
        proposals: dict[int, list[tuple[int, Drafted]]] = {ask.index: [] for ask in asks}
        self._asked = {}
        for number in self._by_cost(range(len(self.sources))):
            group = self._group(number, asks, proposals)
            if not group:
                continue
            asked = self._asked[number] = Asked({ask.index: kind for ask, kind in group})
            asked.is_typical = any(ask.max_tokens > 0 for ask, _ in group) and not any(
                self.sources[number].arrears(ask.index) for ask, _ in group
            )
            begin = time.perf_counter()
            found = self.sources[number].propose([ask for ask, _ in group])
            asked.seconds = time.perf_counter() - begin
            for (ask, _), drafted in zip(group, found, strict=True):
                if drafted.tokens:
                    proposals[ask.index].append((number, drafted))
        self._settled = {}
        return [self._merge(ask, proposals[ask.index]) for ask in asks]

    def _group(
        self, number: int, asks: Sequence[Ask], proposals: dict[int, list[tuple[int, Drafted]]]
    ) -> list[tuple[Ask, Kind]]:
        """The sequences for which a source is worth asking, and the kinds of their steps."""
        token_seconds = self._token_seconds(self._num_sequences)
        group: list[tuple[Ask, Kind]] = []
        for place, ask in enumerate(asks):
            if self._is_whole[number] and len(group) < place:
                return []  # it was not due for the first
            if ask.index in self._settled:
                if (settled := self._settled[ask.index]) is not None:
                    group.append((ask, settled))
                continue
            kind = self._kind(number, proposals[ask.index], self._num_sequences, ask.position)
            is_settled = self._is_whole[number] and bool(group)
            if is_settled or self._is_due(number, ask, kind, token_seconds):
                group.append((ask, kind))
        return group

    def _is_due(self, number: int, ask: Ask, kind: Kind, token_seconds: float | None) -> bool:
        if not self.run.weighs_seconds:
            return True
        payoff = self._payoff(number, kind)
        if not payoff.is_due(kind, token_seconds):
            return False
        # What must be read first is worth reading when its price has been missed in gains: then the text
        # is likely to go on for long enough.
        arrears, gain = self.sources[number].arrears(ask.index), payoff.gain(kind)
        if arrears == 0.0 or gain >= arrears:
            return True
        forgone = self._forgone.get((number, ask.index), 0.0) + max(gain, 0.0)
        self._forgone[number, ask.index] = forgone
        return forgone >= arrears

    def _payoff(self, number: int, kind: Kind) -> Payoff:
        """The books of a source in steps of a kind."""
        if kind.octave == 0:
            return self._payoffs[number]
        return self._by_length.setdefault((number, kind.octave), Payoff.of_a_length())

    def _kind(
        self, number: int, proposals: Sequence[tuple[int, Drafted]], num_sequences: int, position: int
    ) -> Kind:
        """What tells one step from another for a source."""
        likeliest = 0.0
        for other, drafted in proposals:
            likeliest = max(likeliest, self._chances.alone(other, 1, drafted.signals.confidences[0]))
        strength = 1 + sum(likeliest >= end for end in CONFIDENCES) if proposals else 0
        octave = position.bit_length() if self._depends_on_length[number] else 0
        return Kind(strength, num_sequences.bit_length(), octave)

    def _merge(self, ask: Ask, proposals: list[tuple[int, Drafted]]) -> Any:
        last = self._last[ask.index] = Last(proposals, ask.position)
        if not proposals:
            return DraftTree([], Signals([]), [])
        if len(proposals) == 1 and len(proposals[0][1].tokens) <= self.settings.rows:
            return proposals[0][1]
        last.tree = last.merged(ask.max_tokens)
        return cut(last.tree, self.settings.rows, self._chances)

    def _judge(self, ask: Ask) -> None:
        """Compares the last proposals with the text that followed."""
        last = self._last.pop(ask.index, None)
        if last is not None and last.proposals:
            text = ask.output[last.position - len(ask.prompt) :]
            self._chances.judge(last.merged(len(text)), text)

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Passes a forward pass on, and books what each source saved in it."""
        for number, (source, columns) in enumerate(zip(self.sources, self._columns, strict=True)):
            asked = self._asked.get(number, Asked())
            begin = time.perf_counter()
            source.observe([self._shown(outcome, columns, asked) for outcome in outcomes])
            asked.seconds += time.perf_counter() - begin
        drafted = [outcome for outcome in outcomes if not outcome.is_prompt]
        if drafted:
            self._book(drafted)
            self._asked = {}

    def credit(self, seconds: float) -> None:
        """Takes what the only source computed of a forward pass off its costs."""
        for asked in self._asked.values():
            asked.seconds -= seconds

    def _shown(self, outcome: Outcome, columns: list[int], asked: Asked) -> Outcome:
        """The outcome with what one source wants of it. A source that was not asked sees no logits: what it
        would learn from them has its price too."""
        if outcome.logits is not None and outcome.index not in asked.kinds:
            outcome = replace(outcome, logits=None)
        if outcome.hidden is None or len(columns) == len(self.hidden_layers):
            return outcome
        return replace(outcome, hidden=outcome.hidden[:, torch.tensor(columns)] if columns else None)

    def _book(self, outcomes: Sequence[Outcome]) -> None:
        """Every verified row and every token that was saved belongs to the cheapest source that proposed
        it. A source's rows cost what they add to those of cheaper sources."""
        for number, asked in self._asked.items():
            if asked.is_typical:
                seconds = max(asked.seconds, 0.0) / len(asked.kinds)
                books = {id(payoff): payoff for payoff in self._books(number, asked)}
                for payoff in books.values():
                    payoff.book_seconds(seconds)
        token_seconds = self._token_seconds(self._num_sequences)
        if token_seconds is None:
            return
        order = self._by_cost(self._asked)
        owned = {outcome.index: self._owned(outcome, order) for outcome in outcomes}
        rows, before = self._num_sequences, self._seconds(self._num_sequences)
        for number in order:
            kinds = self._asked[number].kinds
            own = sum(owned[outcome.index][number][0] for outcome in outcomes)
            rows += own
            row_seconds = (self._seconds(rows) - before) / max(own, 1)
            before = self._seconds(rows)
            for index, kind in kinds.items():
                if index in owned:
                    num_rows, num_tokens = owned[index][number]
                    saved = num_tokens * token_seconds - num_rows * row_seconds
                    payoff = self._payoff(number, kind)
                    payoff.book_saved(kind, saved)
                    if kind.octave:
                        payoff.most = self._num_proposed(number, index) * token_seconds

    def _books(self, number: int, asked: Asked) -> list[Payoff]:
        """Where the seconds of a source are booked: those of all lengths tell which source is the
        cheapest."""
        return [self._payoffs[number], *(self._payoff(number, kind) for kind in asked.kinds.values())]

    def _num_proposed(self, number: int, index: int) -> int:
        """Tokens that a source has proposed last for a sequence."""
        last = self._last.get(index)
        found = () if last is None else last.proposals
        return sum(len(drafted.tokens) for own, drafted in found if own == number)

    def _owned(self, outcome: Outcome, order: Sequence[int]) -> dict[int, list[int]]:
        """Verified rows and saved tokens of one sequence, by source."""
        owned = {number: [0, 0] for number in order}
        last = self._last.get(outcome.index)
        if last is None or not last.proposals:
            return owned
        if last.tree is None:
            owned[last.proposals[0][0]] = [len(outcome.token_ids) - 1, len(outcome.kept) - 1]
            return owned
        parents = outcome.parents or range(-1, len(outcome.token_ids) - 1)
        nodes, kept = [-1], set(outcome.kept)
        for row in range(1, len(outcome.token_ids)):
            node = last.tree.children[nodes[parents[row]]][outcome.token_ids[row]]
            nodes.append(node)
            owner = owned[next(number for number in order if last.tree.sources[node] >> number & 1)]
            owner[0] += 1
            owner[1] += row in kept
        return owned

    def _by_cost(self, numbers: Any) -> list[int]:
        return sorted(numbers, key=lambda number: self._payoffs[number].seconds or 0.0)

    def _seconds(self, rows: int) -> float:
        curve = self.run.target.cost_curve
        return curve.seconds_beside(rows, self._num_sequences, self._other_rows) or 0.0

    def _token_seconds(self, num_sequences: int) -> float | None:
        """What a token takes without drafts; None while nothing was measured."""
        seconds = self.run.target.cost_curve.seconds(max(num_sequences, 1))
        return None if seconds is None else seconds / max(num_sequences, 1)

    def kind_of(self, index: int, path: Sequence[int]) -> str:
        """The names of the sources that proposed the last token of a path in the latest tree."""
        tree, at = self._last[index].merged(len(path)), -1
        for token in path:
            at = tree.children[at][token]
        names = [source.name for source in self.sources]
        return " + ".join(name for number, name in enumerate(names) if tree.sources[at] >> number & 1)

    def finish(self, index: int) -> None:
        """Ends a sequence."""
        self._last.pop(index, None)
        for number, source in enumerate(self.sources):
            self._forgone.pop((number, index), None)
            source.finish(index)
