"""Policies of search, from their papers: slow and obvious, on dictionaries and fractions."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

Told = tuple[float, bool]
Tell = Callable[[int], Told]
"""What becomes of a node, by its number."""


def rebase_shares(values: Sequence[float], width: int, balance: float) -> list[int]:
    """REBASE (Wu et al. 2024, section 3.2): from the best leaf down, the ceiling of its share of what is
    left."""
    weights = [Fraction(math.exp((value - max(values)) / balance)) for value in values]
    left, total = width, sum(weights, Fraction(0))
    shares = [0] * len(values)
    for place in sorted(range(len(values)), key=lambda place: (-weights[place], place)):
        if left == 0 or total == 0:
            break
        shares[place] = math.ceil(left * weights[place] / total)
        left -= shares[place]
        total -= weights[place]
    return shares


def rounds(
    width: int,
    max_depth: int,
    tell: Tell,
    share: Callable[[list[int], list[int], dict[int, float]], list[int]],
) -> list[list[tuple[int, int]]]:
    """A search level by level: the (leaf, children) of each round. ``share(leaves, ended, values)`` gives
    the counts, ``ended`` being the leaves that ended in the round before."""
    values: dict[int, float] = {0: 1.0}
    asked = [[(0, width)]]
    number = 1
    for depth in range(1, max_depth + 1):
        leaves, ended = [], []
        for _, count in asked[-1]:
            for node in range(number, number + count):
                value, is_finished = tell(node)
                values[node] = value
                (ended if is_finished or depth == max_depth else leaves).append(node)
            number += count
        if not leaves:
            break
        shares = share(leaves, ended, values)
        chosen = [(leaf, count) for leaf, count in zip(leaves, shares, strict=True) if count]
        if not chosen:
            break
        asked.append(chosen)
    return asked


def rebase(width: int, max_depth: int, balance: float, tell: Tell) -> list[list[tuple[int, int]]]:
    """Paths that ended reduce the width by one each."""
    gone = 0

    def share(leaves: list[int], ended: list[int], values: dict[int, float]) -> list[int]:
        nonlocal gone
        gone += len(ended)
        return rebase_shares([values[leaf] for leaf in leaves], max(width - gone, 0), balance)

    return rounds(width, max_depth, tell, share)


def step_beam(width: int, max_depth: int, children: int, tell: Tell) -> list[list[tuple[int, int]]]:
    """Snell et al. 2024, section 5.2: the best ``width / children`` leaves get ``children`` each."""
    gone = 0

    def share(leaves: list[int], ended: list[int], values: dict[int, float]) -> list[int]:
        nonlocal gone
        gone += len(ended)
        room, shares = max(width - gone, 0), dict.fromkeys(leaves, 0)
        for leaf in sorted(leaves, key=lambda leaf: (-values[leaf], leaf)):
            shares[leaf] = min(children, room)
            room -= shares[leaf]
        return [shares[leaf] for leaf in leaves]

    return rounds(width, max_depth, tell, share)


def dvts(width: int, max_depth: int, children: int, tell: Tell) -> list[list[tuple[int, int]]]:
    """Beeching et al. 2024: each group of ``children`` first steps is a greedy search of its own."""
    group = {node: (node - 1) // children for node in range(1, width + 1)}
    parents: dict[int, int] = {}
    number = 1 + width

    def share(leaves: list[int], ended: list[int], values: dict[int, float]) -> list[int]:
        nonlocal number
        for node in [*leaves, *ended]:
            if node not in group:
                group[node] = group[parents[node]]
        shares = dict.fromkeys(leaves, 0)
        for one in set(group.values()):
            own = [node for node in [*leaves, *ended] if group[node] == one]
            if own:
                best = min(own, key=lambda node: (-values[node], node))
                if best in shares:
                    shares[best] = min(children, width - one * children)
        for leaf in leaves:
            for child in range(number, number + shares[leaf]):
                parents[child] = leaf
            number += shares[leaf]
        return [shares[leaf] for leaf in leaves]

    return rounds(width, max_depth, tell, share)


def a_star(children: int, max_depth: int, cost: str, answers: int, tell: Tell) -> list[tuple[int, int]]:
    """Expansions of A*: the leaf of least ``g + 1 - value``; it ends when ``answers`` such leaves had
    ended."""
    value, parent, depth, ended = {0: 1.0}, {0: 0}, {0: 0}, {0: False}
    heap: list[tuple[float, int]] = [(0.0, 0)]
    asked: list[tuple[int, int]] = []
    number = 1
    while heap:
        _, leaf = heapq.heappop(heap)
        if ended[leaf]:
            answers -= 1
            if answers == 0:
                break
        if ended[leaf] or depth[leaf] == max_depth:
            continue
        asked.append((leaf, children))
        for node in range(number, number + children):
            value[node], ended[node] = tell(node)
            parent[node], depth[node] = leaf, depth[leaf] + 1
            path, at = 0.0, node
            while at:
                fall = max(value[parent[at]] - value[at], 0.0)
                path += {"nothing": 0.0, "doubt": 1.0 - value[at], "falls": fall}[cost]
                at = parent[at]
            heapq.heappush(heap, (path + (1.0 - value[node]), node))
        number += children
    return asked


def ets_worth(
    chosen: Sequence[int],
    parents: Sequence[int],
    shares: Sequence[Fraction],
    costs: Sequence[int],
    clusters: Sequence[int],
    weights: tuple[Fraction, Fraction],
) -> Fraction:
    """ETS's objective (Hooper et al. 2025, section 4) of the leaves ``chosen``, of a tree of which node 0 is
    the root: ``shares`` and ``clusters`` are of leaves (0 and -1 elsewhere), ``costs`` of all nodes;
    ``weights`` are those of cost and coverage."""
    nodes = set()
    for leaf in chosen:
        at = leaf
        while at not in nodes:
            nodes.add(at)
            at = parents[at]
    all_clusters = {cluster for cluster in clusters if cluster >= 0}
    covered = {clusters[leaf] for leaf in chosen} - {-1}
    return (
        sum((shares[leaf] for leaf in chosen), Fraction(0))
        - weights[0] * Fraction(sum(costs[node] for node in nodes), sum(costs))
        + weights[1] * Fraction(len(covered), max(len(all_clusters), 1))
    )


def ets_leaves(
    values: Sequence[float],
    parents: Sequence[int],
    leaves: Sequence[int],
    clusters: Sequence[int],
    costs: Sequence[int],
    width: int,
    balance: float,
    weights: tuple[Fraction, Fraction],
) -> tuple[Fraction, list[list[int]]]:
    """The best sets of leaves by trying all, and their worth."""
    counts = rebase_shares(values, width, balance)
    shares, labels = [Fraction(0)] * len(parents), [-1] * len(parents)
    for leaf, count, cluster in zip(leaves, counts, clusters, strict=True):
        shares[leaf], labels[leaf] = Fraction(count, sum(counts)), cluster
    best: tuple[Fraction, list[list[int]]] | None = None
    for subset in range(1, 1 << len(leaves)):
        chosen = [leaf for place, leaf in enumerate(leaves) if subset >> place & 1]
        worth = ets_worth(chosen, parents, shares, costs, labels, weights)
        if best is None or worth > best[0]:
            best = (worth, [chosen])
        elif worth == best[0]:
            best[1].append(chosen)
    assert best is not None
    return best
