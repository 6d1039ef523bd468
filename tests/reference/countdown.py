"""Countdown by brute force: every way to join all numbers, from the rules alone."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import permutations

Lines = tuple[str, ...]


def endings(numbers: tuple[int, ...]) -> Iterator[tuple[int, Lines]]:
    """The last result of every allowed sequence of steps, and its lines."""
    if len(numbers) == 1:
        yield numbers[0], ()
    for first, second in permutations(range(len(numbers)), 2):
        a, b = numbers[first], numbers[second]
        rest = tuple(number for place, number in enumerate(numbers) if place not in (first, second))
        results = {"+": Fraction(a + b), "-": Fraction(a - b), "*": Fraction(a * b), "/": Fraction(a, b)}
        for sign, result in results.items():
            if result.denominator == 1 and 1 <= result <= 99:
                line = f"{a} {sign} {b} = {result}"
                for last, lines in endings((int(result), *rest)):
                    yield last, (line, *lines)
