"""Problems of Countdown, and what solves them.

Every number is used exactly once; a step joins two numbers to one by ``+``, ``-``, ``*`` or ``/``; all
results are whole numbers from 1 to 99; the last one is the target. An answer is its steps, one a line. A
trace may look at several operations in a line, with commas between them: the last one is the step, and
behind ``;`` stand the numbers that are left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hornbeam.errors import ArgumentError
from hornbeam.search import Path, StepEnd
from hornbeam.tasks.countdown.reach import reachable, result_of
from hornbeam.tasks.countdown.tokens import LARGEST

__all__ = ["Problem", "Step", "steps_of"]

#: How many numbers a problem may have.
FEWEST, MOST = 2, 6
#: Operations that a line of a trace looks at before its step.
OTHERS_LOOKED_AT = 5

_STEP = re.compile(r"(?:.*, )?(\d+) ([-+*/]) (\d+) = (\d+)(?:; [\d ]*)?")
_PROBLEM = "numbers from 1 to 99, an arrow and the target, such as '3 5 7 11 -> 43'"


class Step(NamedTuple):
    """One line of an answer."""

    left: int
    """The number before the sign."""
    sign: str
    """``+``, ``-``, ``*`` or ``/``."""
    right: int
    """The number after it."""
    result: int
    """What the line says it makes; whether that is so is another question."""


def steps_of(text: str) -> list[Step | None]:
    """The steps of an answer, a line each; None for a line that is none."""
    found = [_STEP.fullmatch(line) for line in text.strip("\n").split("\n") if text.strip("\n")]
    return [one and Step(int(one[1]), one[2], int(one[3]), int(one[4])) for one in found]


@dataclass(frozen=True)
class Problem:
    """Numbers, and the target to be made of all of them.

    Attributes:
        numbers: two to six, each from 1 to 99. The models know numbers up to 15, and three to five of them.
        target: from 1 to 99; the models know 10 and more.

    Raises:
        ArgumentError: too few or too many numbers, or one of them or the target out of range.
    """

    numbers: tuple[int, ...]
    target: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", tuple(self.numbers))
        if not FEWEST <= len(self.numbers) <= MOST:
            raise ArgumentError(
                f"numbers are {len(self.numbers)}, {list(self.numbers)}, expected {FEWEST} to {MOST} of them"
            )
        for name, number in [*(("number", number) for number in self.numbers), ("target", self.target)]:
            if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= LARGEST:
                raise ArgumentError(f"{name} is {number!r}, expected a whole number from 1 to {LARGEST}")

    @classmethod
    def parse(cls, text: str) -> Problem:
        """Reads ``"3 5 7 11 -> 43"``. Commas between the numbers will do too.

        Raises:
            ArgumentError: the text is no such problem.
        """
        numbers, arrow, target = text.partition("->")
        words = numbers.replace(",", " ").split()
        if not arrow or not words or not all(word.isdecimal() for word in [*words, target.strip()]):
            raise ArgumentError(f"problem is {text!r}, expected {_PROBLEM}")
        return cls(tuple(map(int, words)), int(target))

    def __str__(self) -> str:
        return f"{' '.join(map(str, self.numbers))} -> {self.target}"

    @property
    def prompt(self) -> str:
        """What a model is given."""
        return f"{self}\n"

    @property
    def num_steps(self) -> int:
        """Steps of an answer."""
        return len(self.numbers) - 1

    def step_end(self, traces: bool = False) -> StepEnd:
        """Where a step of a path ends: with its line, which has six tokens; some forty in a trace.

        Args:
            traces: whether the model looks at several operations before each step.
        """
        looked_at = 6 * OTHERS_LOOKED_AT + 2 * self.num_steps if traces else 0
        return StepEnd(delimiter="\n", max_tokens=6 + looked_at)

    def left(self, text: str) -> tuple[int, ...] | None:
        """The numbers that are left after the steps of ``text``, sorted; None once a step is wrong."""
        have = sorted(self.numbers)
        for step in steps_of(text):
            if step is None or result_of(step.left, step.sign, step.right) != step.result:
                return None
            for operand in (step.left, step.right):
                if operand not in have:
                    return None
                have.remove(operand)
            have = sorted([*have, step.result])
        return tuple(have)

    def fault(self, text: str) -> str | None:
        """Why an answer is no solution; None if it is one."""
        have = list(self.numbers)
        for step in steps_of(text):
            if step is None:
                return "a line is no step"
            line = f"{step.left} {step.sign} {step.right} = {step.result}"
            for operand in (step.left, step.right):
                if operand not in have:
                    return f"{line}: there is no {operand} left"
                have.remove(operand)
            if result_of(step.left, step.sign, step.right) != step.result:
                return f"{line}: that is not so, or no whole number from 1 to {LARGEST}"
            have.append(step.result)
        if len(have) > 1:
            return f"{len(have)} numbers are left: {' '.join(map(str, have))}"
        return None if have == [self.target] else f"the result is {have[0]}, not {self.target}"

    def solves(self, text: str) -> bool:
        """Whether an answer uses every number exactly once, step by step without a fault, and comes to the
        target."""
        return self.fault(text) is None

    def expression(self, text: str) -> str | None:
        """An answer's steps as one expression; None if a step is wrong or numbers are left over."""
        if (left := self.left(text)) is None or len(left) > 1:
            return None
        have: list[tuple[int, str]] = [(number, str(number)) for number in self.numbers]
        for step in steps_of(text):
            assert step is not None  # left() has looked
            parts = []
            for operand in (step.left, step.right):
                place = next(i for i, (number, _) in enumerate(have) if number == operand)
                written = have.pop(place)[1]
                parts.append(f"({written})" if " " in written else written)
            have.append((step.result, f"{parts[0]} {step.sign} {parts[1]}"))
        return f"{have[0][1]} = {have[0][0]}"

    def finish(self, path: Path) -> str | bool:
        """Whether a path has as many steps as there are to take: then its expression, or its text where that
        is none. For :meth:`hornbeam.LM.search`."""
        if path.depth < self.num_steps:
            return False
        return self.expression(path.text) or path.text.strip() or True

    def oracle(self, paths: Sequence[Path]) -> list[float]:
        """1 for a path from which the target can still be reached, else 0: a value that no model has, to
        bound what values can do. For :meth:`hornbeam.LM.search`."""
        return [float(self.is_open(path.text)) for path in paths]

    def is_open(self, text: str = "") -> bool:
        """Whether the target can be reached after the steps of ``text``, with all numbers."""
        left = self.left(text)
        return left is not None and reachable(left, self.target)
