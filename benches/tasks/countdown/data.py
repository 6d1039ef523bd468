"""Countdown problems and solutions as arrays of token ids, many at a time.

A problem is made forward: numbers are drawn, steps are drawn until one number is left, and that is the
target. So every problem has a solution, and common targets are as common as they come. Problems are told
apart by their sorted numbers and target; a hash of these says which split one belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hornbeam.tasks.countdown import tokens

#: Numbers of a problem are drawn from 1 to this.
LARGEST_GIVEN = 15
LEAST_TARGET = 10
#: Of a thousand problems, by their hash: so many are the test split, so many the development split.
TEST, DEVELOPMENT = 20, 20
#: Operations that a step of a trace looks at; the last one is taken.
LOOKED_AT = 6

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Solved:
    """Problems with a solution each.

    Attributes:
        numbers: [B, n], those that are given.
        target: [B].
        steps: [B, n - 1, 4]: larger operand, sign (0 to 3: + - * /), smaller operand, result.
        looked_at: [B, n - 1, k, 4], operations that were possible at each step, the step itself last.
        left: [B, n - 1, n], numbers left after each step, 0 behind the last.
    """

    numbers: Array
    target: Array
    steps: Array
    looked_at: Array | None
    left: Array

    def __len__(self) -> int:
        return len(self.target)

    def where(self, mask: Array) -> Solved:
        """Those that ``mask`` chooses."""
        looked_at = None if self.looked_at is None else self.looked_at[mask]
        return Solved(self.numbers[mask], self.target[mask], self.steps[mask], looked_at, self.left[mask])


def draw(rng: np.random.Generator, count: int, n: int, traces: bool = False) -> Solved:
    """About ``count`` problems of ``n`` numbers with targets of :data:`LEAST_TARGET` and more."""
    numbers = rng.integers(1, LARGEST_GIVEN + 1, (count, n))
    have = numbers.copy()
    rows = np.arange(count)
    steps, looked, left = [], [], []
    for size in range(n, 1, -1):
        options = [_operation(rng, have, size) for _ in range(LOOKED_AT if traces else 1)]
        first, second, step = options[-1]
        steps.append(step)
        looked.append(np.stack([option[2] for option in options], 1))
        have = have.copy()
        have[rows, np.minimum(first, second)] = step[:, 3]
        # The numbers behind the one that is used up move forward by one place.
        gone = np.maximum(first, second)[:, None]
        places = np.arange(n)[None, :]
        moved = np.concatenate([have[:, 1:], np.zeros((count, 1), have.dtype)], 1)
        have = np.where(places >= gone, moved, have)
        left.append(have)
    target = have[:, 0]
    found = Solved(
        numbers, target, np.stack(steps, 1), np.stack(looked, 1) if traces else None, np.stack(left, 1)
    )
    return found.where(target >= LEAST_TARGET)


def _operation(rng: np.random.Generator, have: Array, size: int) -> tuple[Array, Array, Array]:
    """One possible operation a row on two of its first ``size`` numbers: their places, and the step."""
    rows = np.arange(len(have))
    first = rng.integers(0, size, len(have))
    second = (first + rng.integers(1, size, len(have))) % size
    a, b = have[rows, first], have[rows, second]
    high, low = np.maximum(a, b), np.minimum(a, b)
    results = np.stack([high + low, high - low, high * low, high // low], 1)
    possible = (results >= 1) & (results <= tokens.LARGEST)
    possible[:, 3] &= high % low == 0
    sign = np.argmax(np.where(possible, rng.random(results.shape), -1.0), 1)
    return first, second, np.stack([high, sign, low, results[rows, sign]], 1)


def split_of(numbers: Array, target: Array) -> Array:
    """The hash of each problem, from 0 to 999: the test split first, then the development split."""
    code = target.astype(np.uint64)
    with np.errstate(over="ignore"):
        for place in np.sort(numbers, 1).astype(np.uint64).T:
            code = code * np.uint64(128) + place
        # The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
        code = (code ^ (code >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        code = (code ^ (code >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        code ^= code >> np.uint64(31)
    return (code % np.uint64(1000)).astype(np.int64)


def is_training(found: Solved) -> Array:
    """Which problems belong to neither held-out split."""
    return split_of(found.numbers, found.target) >= TEST + DEVELOPMENT


def prompts(numbers: Array, target: Array) -> Array:
    """The token ids of prompts, [B, 2 n + 2]."""
    count, n = numbers.shape
    ids = np.full((count, 2 * n + 2), tokens.SPACE)
    ids[:, 0 : 2 * n : 2] = numbers + tokens.NUMBER
    ids[:, 2 * n - 1] = tokens.ARROW
    ids[:, 2 * n] = target + tokens.NUMBER
    ids[:, 2 * n + 1] = tokens.NEWLINE
    return ids


def answers(found: Solved) -> Array:
    """The token ids of answers with the end token, [B, length]: steps alone, or all that is looked at too."""
    count, steps = found.steps.shape[:2]
    parts = []
    for depth in range(steps):
        if found.looked_at is None:
            parts += [_operations(found.steps[:, depth : depth + 1])]
        else:
            looked = found.looked_at[:, depth]
            size = steps - depth
            line = np.full((count, 6 * looked.shape[1] + 2 * size), tokens.SPACE)
            for place in range(looked.shape[1]):
                line[:, 6 * place : 6 * place + 5] = _operations(looked[:, place : place + 1])[:, :5]
                line[:, 6 * place + 5] = tokens.COMMA
            begin = 6 * looked.shape[1]
            line[:, begin - 1] = tokens.CHOSEN
            line[:, begin::2] = found.left[:, depth, :size] + tokens.NUMBER
            line[:, -1] = tokens.NEWLINE
            parts.append(line)
    return np.concatenate([*parts, np.full((count, 1), tokens.END)], 1)


def _operations(steps: Array) -> Array:
    """The tokens of operations [B, k, 4], each with a line end: [B, 6 k]."""
    ids = np.empty((*steps.shape[:2], 6), np.int64)
    ids[..., 0] = steps[..., 0] + tokens.NUMBER
    ids[..., 1] = steps[..., 1] + tokens.PLUS
    ids[..., 2] = steps[..., 2] + tokens.NUMBER
    ids[..., 3] = tokens.EQUALS
    ids[..., 4] = steps[..., 3] + tokens.NUMBER
    ids[..., 5] = tokens.NEWLINE
    return ids.reshape(len(steps), -1)


def step_length(n: int, depth: int, traces: bool) -> int:
    """Tokens of step ``depth`` (from 0) of a problem of ``n`` numbers."""
    return 6 * LOOKED_AT + 2 * (n - 1 - depth) if traces else 6


def are_right(numbers: Array, target: Array, written: Array, traces: bool = False) -> Array:
    """Which written answers (token ids, with or without an end token) are solutions."""
    count, n = numbers.shape
    have = np.concatenate([numbers, np.zeros((count, n - 1), numbers.dtype)], 1)
    rows = np.arange(count)
    right = np.ones(count, bool)
    begin, result = 0, target
    for depth in range(n - 1):
        if traces:
            begin += 6 * (LOOKED_AT - 1)
        high, sign, low, equals, result, end = (written[:, begin + i] for i in range(6))
        high, low, result = high - tokens.NUMBER, low - tokens.NUMBER, result - tokens.NUMBER
        for operand in (high, low):
            found = (have == operand[:, None]) & (operand[:, None] > 0)
            right &= found.any(1)
            have[rows, found.argmax(1)] = 0
        by = np.maximum(low, 1)
        results = np.stack([high + low, high - low, high * low, high // by], 1)
        sign = sign - tokens.PLUS
        right &= (sign >= 0) & (sign < 4) & (equals == tokens.EQUALS)
        right &= end == (tokens.CHOSEN if traces else tokens.NEWLINE)
        sign = np.clip(sign, 0, 3)
        right &= (results[rows, sign] == result) & ((sign != 3) | (high % by == 0)) & (result >= 1)
        have[:, n + depth] = result
        begin += 6 + (2 * (n - 1 - depth) if traces else 0)
    return right & (result == target)
