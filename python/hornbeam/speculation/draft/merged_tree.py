"""Drafts of several sources in one tree, and what their tokens have turned out to be worth."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from hornbeam._native import Signals
from hornbeam.speculation.declarations import parents_of
from hornbeam.speculation.protocols import Drafted
from hornbeam.speculation.tree_building import DraftTree

__all__ = ["Cell", "Chances", "Tree", "cut"]

# Observations that an expectation is worth, and observations after which one counts 1/e.
PRIOR_WEIGHT, MEMORY = 4.0, 200.0
# Depths and confidences that share what is learned: levels 1, 2, 3-4, 5-8, more; ends of the classes.
CONFIDENCES = (0.2, 0.4, 0.6, 0.8)


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
        given = parents_of(drafted)
        tokens, signals = drafted.tokens, drafted.signals
        if given is None:
            tokens = tokens[: max(max_tokens, 0)]
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
        """Counts one more."""
        keep = 1 - 1 / MEMORY
        self.judged, self.right = self.judged * keep + 1, self.right * keep + right

    def estimate(self, prior: float) -> float:
        """The share that comes true."""
        return (self.right + PRIOR_WEIGHT * prior) / (self.judged + PRIOR_WEIGHT)


class Chances:
    """The probability that a token follows the one above it, by the sources that propose it, their
    confidence and its depth. The text that follows judges every proposed token on its path, verified or
    not."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int, int], Cell] = {}

    def of(self, tree: Tree, node: int) -> float:
        """Of a token of a merged tree."""
        sources, depth = tree.sources[node], tree.depths[node]
        alone = [
            self.alone(source, depth, confidence) for source, (_, _, confidence) in tree.signals[node].items()
        ]
        prior = max(alone)
        if len(alone) == 1:
            return prior
        return self._cell(sources, depth, max(c for _, _, c in tree.signals[node].values())).estimate(prior)

    def alone(self, source: int, depth: int, confidence: float) -> float:
        """Of a token that one source proposes."""
        return self._cell(1 << source, depth, confidence).estimate(confidence)

    def judge(self, tree: Tree, text: Sequence[int]) -> None:
        """Compares a tree with the text that followed."""
        at = -1
        for token in text:
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

    def _cell(self, sources: int, depth: int, confidence: float) -> Cell:
        key = (sources, (depth - 1).bit_length(), sum(confidence >= end for end in CONFIDENCES))
        return self._cells.setdefault(key, Cell())


def cut(tree: Tree, rows: int, chances: Chances) -> DraftTree:
    """The ``rows`` tokens of best expected gain, parents first: those whose whole paths are likeliest."""
    heap: list[tuple[float, int]] = []
    index: dict[int, int] = {-1: -1}
    grown = DraftTree([], Signals([]), [])
    signals: tuple[list[float], list[int], list[int]] = ([], [], [])

    def offer(above: int, likelihood: float) -> None:
        below = list(tree.children[above].values())
        own = [chances.of(tree, node) for node in below]
        # Siblings exclude each other.
        excess = max(sum(own) / 0.999, 1.0)
        for node, chance in zip(below, own, strict=True):
            heapq.heappush(heap, (-likelihood * chance / excess, node))

    offer(-1, 1.0)
    while heap and len(grown.tokens) < rows:
        likelihood, node = heapq.heappop(heap)
        index[node] = len(grown.tokens)
        grown.tokens.append(tree.tokens[node])
        grown.parents.append(index[tree.parents[node]])
        # A stop rule knows what a match of this length is worth; of another source it knows the
        # estimate alone.
        length, count, confidence = max(tree.signals[node].values())
        signals[0].append(confidence if length else min(chances.of(tree, node), 1.0))
        signals[1].append(length)
        signals[2].append(count)
        offer(node, -likelihood)
    return DraftTree(grown.tokens, Signals(*signals), grown.parents)
