"""Draws of draft trees as their papers state them.

:func:`draw` is the keyed draw of hornbeam's core in plain Python. :func:`beam` is RSD-S by the property
that defines it: the perturbed values of all sequences of full length rank them as drawing without
replacement from their product law does (Kool et al. 2019, section 4.1; Plackett-Luce), a prefix ranks as
the best of its extensions, and a level keeps the first prefixes of the ranking.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from tests.reference import philox
from tests.reference.verify import Enumeration, Law


def draw(
    law: Law, noise: str, seed: int, sequence: int, position: int, node: int, count: int
) -> list[tuple[int, float, float]]:
    """(token, probability, score) of the children of one node."""
    support = [token for token, p in enumerate(law) if p]
    if noise == "independent":
        children = []
        for child in range(count):
            high, low, *_ = philox.words(seed, sequence, position, philox.DRAFT, node, child)
            target, running = Fraction(high << 32 | low, 2**64), Fraction(0)
            for token in support:
                running += law[token]
                if target < running:
                    break
            children.append((token, float(law[token]), math.log(law[token])))
        return children

    def exponential(token: int) -> float:
        if noise == "nothing":
            return 1.0
        domain, key = (philox.SAMPLE, 0) if noise == "shared" else (philox.DRAFT, node)
        block, lane = divmod(token, 4)
        return philox.exponential(philox.words(seed, sequence, position, domain, key, block)[lane])

    ratios = sorted((exponential(token) / float(law[token]), token) for token in support)
    return [(token, float(law[token]), -math.log(ratio)) for ratio, token in ratios[:count]]


def beam(
    chance: Enumeration,
    law_of: Callable[[tuple[int, ...]], Law],
    width: int,
    depth: int,
    ends: Callable[[tuple[int, ...]], bool] = lambda path: False,
) -> tuple[list[tuple[int, int]], list[tuple[int, ...]]]:
    """The tree of a stochastic beam, and the path of each of its tokens.

    Sequences of full length are drawn one after the other from their product law, without replacement; each
    level keeps the first ``width`` prefixes that come up. Below a path that ``ends`` nothing is kept. A
    sequence that can change nothing any more is left out, which does not touch the order of the others.
    """
    levels: list[list[tuple[int, ...]]] = [[] for _ in range(depth)]

    def taken(path: tuple[int, ...]) -> tuple[int, ...]:
        """The longest prefix of a sequence that a level would take up now; empty for none."""
        longest: tuple[int, ...] = ()
        for length in range(1, depth + 1):
            prefix, level = path[:length], levels[length - 1]
            if ends(prefix[:-1]) or (prefix not in level and len(level) == width):
                break
            if prefix not in level:
                longest = prefix
        return longest

    def sequences(path: tuple[int, ...], mass: Any) -> Any:
        if len(path) == depth:
            yield path, mass
            return
        for token, p in enumerate(law_of(path)):
            if p:
                yield from sequences((*path, token), mass * p)

    every = list(sequences((), 1))
    while True:
        masses: dict[tuple[int, ...], Any] = {}
        for path, mass in every:
            if prefix := taken(path):
                masses[prefix] = masses.get(prefix, 0) + mass
        if not masses:
            break
        drawn = list(masses)[chance.pick(1, 0, list(masses.values()))]
        for length in range(1, len(drawn) + 1):
            if drawn[:length] not in levels[length - 1]:
                levels[length - 1].append(drawn[:length])
    paths: list[tuple[int, ...]] = []
    tree: list[tuple[int, int]] = []
    above: list[tuple[int, ...]] = [()]
    for level in levels:
        # Parents in the order of their level, siblings as they rank.
        ranked = sorted(level, key=lambda path: above.index(path[:-1]))
        for path in ranked:
            tree.append((path[-1], paths.index(path[:-1]) if len(path) > 1 else -1))
            paths.append(path)
        above = ranked
    return tree, paths
