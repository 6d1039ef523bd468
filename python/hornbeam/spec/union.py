"""Several draft sources, merged into one tree under one budget of rows."""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from hornbeam._native import Signals
from hornbeam.errors import ArgumentError
from hornbeam.spec import laws
from hornbeam.spec.growth import Grown
from hornbeam.spec.protocols import Ask, Drafted, Law, Outcome, Proposer, Run
from hornbeam.spec.separate import open_source

__all__ = ["Union"]

# Observations that an expectation is worth, and observations after which one counts 1/e.
PRIOR_WEIGHT, MEMORY = 4.0, 200.0
# Depths and confidences that share what is learned: levels 1, 2, 3-4, 5-8, more; ends of the classes.
CONFIDENCES = (0.2, 0.4, 0.6, 0.8)
# A source that takes less than this share of a plain step is asked whatever it brings.
CHEAP = 0.02
# A source that does not pay is asked again after 2, 4, ... steps, at most after so many.
LONGEST_PAUSE = 256


@dataclass(frozen=True, init=False)
class Union:
    """Merges the drafts of several sources into one tree: equal paths become one, and of all of them the
    ``rows`` tokens of best expected gain are kept, parents first.

    What a token is worth is learned by the sources that propose it, their confidence and its depth;
    the text that follows judges every proposed token on its path, verified or not. A source whose
    drafts take longer than the tokens save that no cheaper source had is asked ever more rarely, so
    that a union does not lose what its best parts gain.

    The text is the target's under ``coupled`` and ``target_only``. A ratio test needs one law of draws
    for a whole tree and is refused, unless every source is deterministic.

    Args:
        drafts: sources, those that work by sequence and those that work by run.
        rows: most tokens in a merged tree.

    Raises:
        ArgumentError: without a source, or if ``rows`` is below 1.
    """

    drafts: tuple[Any, ...]
    rows: int = 64

    def __init__(self, *drafts: Any, rows: int = 64) -> None:
        if not drafts:
            raise ArgumentError("a union has no drafts, expected at least one")
        if rows < 1:
            raise ArgumentError(f"rows is {rows}, expected at least 1")
        object.__setattr__(self, "drafts", drafts)
        object.__setattr__(self, "rows", rows)

    def open(self, run: Run) -> Merger:
        """Begins a run of every source."""
        return Merger(self, run)


class Tree:
    """A merged tree while it grows. ``sources`` is a bit mask of those that propose the token."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self.sources: list[int] = []
        self.signals: list[dict[int, tuple[int, int, float]]] = []
        self.children: dict[int, dict[int, int]] = {-1: {}}

    def add(self, drafted: Drafted, source: int, max_tokens: int) -> None:
        """Merges a proposal; of twins the first one's signals count."""
        given = getattr(drafted, "parents", None)
        tokens, signals = drafted.tokens, drafted.signals
        lengths, counts, confidences = signals.match_lengths, signals.counts, signals.confidences
        parents = range(-1, len(tokens) - 1) if given is None else given
        places: dict[int, int] = {-1: -1}
        for node, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
            above = places.get(parent)
            if above is None or (depth := 1 + (self.depths[above] if above >= 0 else 0)) > max_tokens:
                continue
            place = self.children[above].get(token)
            if place is None:
                place = len(self.tokens)
                self.children[above][token] = place
                self.children[place] = {}
                self.tokens.append(token)
                self.parents.append(above)
                self.depths.append(depth)
                self.sources.append(0)
                self.signals.append({})
            places[node] = place
            self.sources[place] |= 1 << source
            self.signals[place].setdefault(source, (lengths[node], counts[node], confidences[node]))


@dataclass
class Cell:
    """Discounted counts of judged tokens and of those that came true."""

    judged: float = 0.0
    right: float = 0.0

    def judge(self, right: bool) -> None:
        keep = 1 - 1 / MEMORY
        self.judged, self.right = self.judged * keep + 1, self.right * keep + right

    def estimate(self, prior: float) -> float:
        return (self.right + PRIOR_WEIGHT * prior) / (self.judged + PRIOR_WEIGHT)


@dataclass
class Account:
    """What a source costs in seconds a step, and what it brings."""

    seconds: float = 0.0
    saved: float = 0.0
    asked: int = 0
    pause: int = 1
    wait: int = 0

    def book(self, spent: float) -> None:
        """Records what a draft took; one that something interrupted counts no more than four others."""
        self.asked += 1
        if self.asked > 1:
            spent = min(spent, 4 * self.seconds)
        self.seconds += (spent - self.seconds) / min(self.asked, 8)

    def is_due(self, plain: float | None) -> bool:
        """Whether to ask the source in this step; ``plain`` is what a step without drafts takes."""
        if plain is None or self.asked < 4 or self.seconds <= max(CHEAP * plain, self.saved):
            self.pause = 1
            return True
        if self.wait > 0:
            self.wait -= 1
            return False
        self.pause = min(2 * self.pause, LONGEST_PAUSE)
        self.wait = self.pause
        return True


@dataclass
class Last:
    """The latest merged tree of a sequence, and where it began."""

    tree: Tree
    position: int


class Merger:
    """:class:`Union` at work."""

    def __init__(self, settings: Union, run: Run) -> None:
        self.settings = settings
        self.run = run
        self.sources: list[Proposer] = [open_source(source, run) for source in settings.drafts]
        layers = sorted({layer for source in self.sources for layer in source.hidden_layers})
        self.hidden_layers = tuple(layers)
        self._columns = [[layers.index(layer) for layer in s.hidden_layers] for s in self.sources]
        self._accounts = [Account() for _ in self.sources]
        self._cells: dict[tuple[int, int, int], Cell] = {}
        self._last: dict[int, Last] = {}
        self._asked: list[int] = []

    @property
    def law(self) -> Law:
        """Deterministic if every source is."""
        drawn = any(laws.law_of(source) != "deterministic" for source in self.sources)
        return "mixed" if drawn else "deterministic"

    def start(self, index: int, prompt_ids: Sequence[int]) -> int:
        """The least that any source needs to see."""
        return min(source.start(index, prompt_ids) for source in self.sources)

    def propose(self, asks: Sequence[Ask]) -> list[Grown]:
        """One merged tree for each ask."""
        for ask in asks:
            self._judge(ask)
        plain = self.run.lm.cost_curve.seconds(max(len(asks), 1))
        trees = [Tree() for _ in asks]
        self._asked = []
        for number, (source, account) in enumerate(zip(self.sources, self._accounts, strict=True)):
            if not account.is_due(plain):
                continue
            begin = time.perf_counter()
            proposals = source.propose(asks)
            spent = time.perf_counter() - begin
            account.book(spent)
            self._asked.append(number)
            for tree, ask, proposal in zip(trees, asks, proposals, strict=True):
                tree.add(proposal, number, ask.max_tokens)
        for ask, tree in zip(asks, trees, strict=True):
            self._last[ask.index] = Last(tree, ask.position)
        return [self._cut(tree) for tree in trees]

    def _cut(self, tree: Tree) -> Grown:
        """The tokens of best expected gain: those whose whole paths are likeliest."""
        heap: list[tuple[float, int]] = []
        index: dict[int, int] = {-1: -1}
        grown = Grown([], Signals([]), [])
        signals: tuple[list[float], list[int], list[int]] = ([], [], [])

        def offer(above: int, likelihood: float) -> None:
            below = list(tree.children[above].values())
            chances = [self._chance(tree, node) for node in below]
            # Siblings exclude each other.
            excess = max(sum(chances) / 0.999, 1.0)
            for node, chance in zip(below, chances, strict=True):
                heapq.heappush(heap, (-likelihood * chance / excess, node))

        offer(-1, 1.0)
        while heap and len(grown.tokens) < self.settings.rows:
            likelihood, node = heapq.heappop(heap)
            index[node] = len(grown.tokens)
            grown.tokens.append(tree.tokens[node])
            grown.parents.append(index[tree.parents[node]])
            # A stop rule knows what a match of this length is worth; of another source it knows the
            # estimate alone.
            length, count, confidence = max(tree.signals[node].values())
            signals[0].append(confidence if length else min(self._chance(tree, node), 1.0))
            signals[1].append(length)
            signals[2].append(count)
            offer(node, -likelihood)
        return replace(grown, signals=Signals(*signals))

    def _chance(self, tree: Tree, node: int) -> float:
        """The learned probability that a token follows the one above it."""
        sources, depth = tree.sources[node], tree.depths[node]
        alone = [
            self._cell(1 << source, depth, confidence).estimate(confidence)
            for source, (_, _, confidence) in tree.signals[node].items()
        ]
        prior = max(alone)
        if len(alone) == 1:
            return prior
        return self._cell(sources, depth, max(c for _, _, c in tree.signals[node].values())).estimate(prior)

    def _cell(self, sources: int, depth: int, confidence: float) -> Cell:
        key = (sources, (depth - 1).bit_length(), sum(confidence >= end for end in CONFIDENCES))
        return self._cells.setdefault(key, Cell())

    def _judge(self, ask: Ask) -> None:
        """Compares the last tree with the text that followed."""
        last = self._last.pop(ask.index, None)
        if last is None:
            return
        tree, at = last.tree, -1
        for token in ask.output[last.position - len(ask.prompt) :]:
            below = tree.children[at]
            for node in below.values():
                right = tree.tokens[node] == token
                strongest = max(c for _, _, c in tree.signals[node].values())
                for source, (_, _, confidence) in tree.signals[node].items():
                    self._cell(1 << source, tree.depths[node], confidence).judge(right)
                if len(tree.signals[node]) > 1:
                    self._cell(tree.sources[node], tree.depths[node], strongest).judge(right)
            if token not in below:
                return
            at = below[token]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Passes a forward pass on, and books what each source saved in it."""
        for source, columns in zip(self.sources, self._columns, strict=True):
            source.observe([_hidden(outcome, columns) for outcome in outcomes])
        drafted = [outcome for outcome in outcomes if not outcome.is_prompt]
        if not drafted:
            return
        token_seconds = (self.run.lm.cost_curve.seconds(len(drafted)) or 0.0) / len(drafted)
        # A token is saved by the cheapest source that proposed it.
        by_cost = sorted(self._asked, key=lambda number: self._accounts[number].seconds)
        tokens = dict.fromkeys(self._asked, 0)
        for outcome in drafted:
            last, at = self._last.get(outcome.index), -1
            if last is None:
                continue
            for token in outcome.committed[1:]:
                at = last.tree.children[at][token]
                tokens[next(number for number in by_cost if last.tree.sources[at] >> number & 1)] += 1
        for number, count in tokens.items():
            account = self._accounts[number]
            account.saved += (count * token_seconds - account.saved) / min(account.asked, 16)

    def kind_of(self, index: int, path: Sequence[int]) -> str:
        """The names of the sources that proposed the last token of a path in the latest tree."""
        tree, at = self._last[index].tree, -1
        for token in path:
            at = tree.children[at][token]
        names = [type(source).__name__ for source in self.settings.drafts]
        return " + ".join(name for number, name in enumerate(names) if tree.sources[at] >> number & 1)

    def finish(self, index: int) -> None:
        """Ends a sequence."""
        self._last.pop(index, None)
        for source in self.sources:
            source.finish(index)


def _hidden(outcome: Outcome, columns: list[int]) -> Outcome:
    """The outcome with the hidden states that one source wants."""
    if outcome.hidden is None:
        return outcome
    if not columns:
        return replace(outcome, hidden=None)
    return replace(outcome, hidden=outcome.hidden[:, torch.tensor(columns)])
