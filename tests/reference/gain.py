"""Draft lengths by trying them all, and a measured curve by its definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod


def tokens_per_second(
    seconds: Callable[[int], float],
    acceptances: Sequence[Sequence[float]],
    lengths: Sequence[int],
    others: int = 0,
) -> float:
    """Expected tokens of a step, one a sequence besides the drafted ones, over its seconds; ``others`` are
    sequences without a draft."""
    tokens = others + sum(
        1 + sum(prod(chain[:k]) for k in range(1, length + 1))
        for chain, length in zip(acceptances, lengths, strict=True)
    )
    return tokens / seconds(others + len(acceptances) + sum(lengths))


def best_rate(
    seconds: Callable[[int], float], acceptances: Sequence[Sequence[float]], others: int = 0
) -> float:
    """The highest :func:`tokens_per_second` over all lengths."""
    every = product(*(range(len(chain) + 1) for chain in acceptances))
    return max(tokens_per_second(seconds, acceptances, lengths, others) for lengths in every)


def isotonic(values: Sequence[float]) -> list[float]:
    """The closest non-decreasing sequence in least squares, by its max-min formula."""
    size = range(len(values))

    def mean(low: int, high: int) -> float:
        return sum(values[low : high + 1]) / (high + 1 - low)

    return [max(min(mean(low, high) for high in range(i, len(values))) for low in range(i + 1)) for i in size]
