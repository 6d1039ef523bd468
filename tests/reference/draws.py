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
    chance: Enumeration, law_of: Callable[[tuple[int, ...]], Law], width: int, depth: int
) -> tuple[list[tuple[int, int]], list[tuple[int, ...]]]:
    """The tree of a stochastic beam, and the path of each of its tokens.

    Sequences are drawn one after the other, token by token, each from what is left of the product law.
    Once the deepest level is full the next one's prefixes are drawn in their place: what extends them no
    longer matters, and new ones rank by their whole mass.
    """
    levels: list[list[tuple[int, ...]]] = [[] for _ in range(depth)]
    for length in range(depth, 0, -1):
        seen = levels[length - 1]

        def left(prefix: tuple[int, ...], length: int = length, seen: Any = seen) -> Any:
            """Of a prefix's mass, the share whose extensions to ``length`` were not seen."""
            if len(prefix) == length:
                return 0 if prefix in seen else 1
            if not any(other[: len(prefix)] == prefix for other in seen):
                return 1
            law = law_of(prefix)
            return sum(p * left((*prefix, token)) for token, p in enumerate(law) if p)

        while len(seen) < width and left(()) > 1e-12:
            path: tuple[int, ...] = ()
            for level in levels[:length]:
                law = law_of(path)
                masses = [p * left((*path, token)) if p else p for token, p in enumerate(law)]
                path = (*path, chance.pick(1, 0, masses))
                if path not in level and len(level) < width:
                    level.append(path)
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
