"""Countdown's rules against brute force, its tokens, and the models that ship with the package."""

from __future__ import annotations

import random
from pathlib import Path as File
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbeam.errors import ArgumentError
from hornbeam.search import Path
from hornbeam.tasks import countdown
from hornbeam.tasks.countdown import Problem
from tests.reference.countdown import endings

NUMBERS = st.lists(st.integers(1, 99), min_size=2, max_size=3).map(tuple)


def path(problem: Problem, *lines: str) -> Path:
    """A path with these steps."""
    found = Path(0, None, "", [], [], 0, [])
    for number, line in enumerate(lines, 1):
        found = Path(number, found, f"{found.text}{line}\n", [], [], 0, [])
    return found


@pytest.mark.parametrize("text", ["3 5 7 11 -> 43", "3,5,7,11->43", " 3, 5  7 11 ->43 "])
def test_a_problem_is_read(text: str) -> None:
    problem = Problem.parse(text)
    assert problem == Problem((3, 5, 7, 11), 43)
    assert str(problem) == "3 5 7 11 -> 43"
    assert problem.prompt == "3 5 7 11 -> 43\n"
    assert Problem.parse(str(problem)) == problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3 5 7 11", "problem is '3 5 7 11', expected numbers from 1 to 99, an arrow"),
        ("3 5 7 -> ", "expected numbers from 1 to 99, an arrow"),
        ("-> 5", "expected numbers from 1 to 99, an arrow"),
        ("3 five -> 8", "problem is '3 five -> 8'"),
        ("3 -5 -> 8", "problem is '3 -5 -> 8'"),
        ("3 5 -> 8 -> 9", "problem is '3 5 -> 8 -> 9'"),
        ("3 -> 3", "numbers are 1, \\[3\\], expected 2 to 6"),
        ("1 2 3 4 5 6 7 -> 28", "numbers are 7"),
        ("3 0 -> 3", "number is 0, expected a whole number from 1 to 99"),
        ("3 5 -> 100", "target is 100, expected a whole number from 1 to 99"),
    ],
)
def test_what_is_no_problem_is_refused(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Problem.parse(text)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("11 - 3 = 8\n7 * 5 = 35\n35 + 8 = 43\n", None),
        ("5 * 7 = 35\n11 - 3 = 8\n8 + 35 = 43", None),
        ("11 - 3 = 8, 7 * 5 = 35; 35 3 11\n11 - 3 = 8; 8 35\n8 + 35 = 43; 43\n", None),
        ("", "4 numbers are left"),
        ("11 - 3 = 8\n7 * 5 = 35\n", "2 numbers are left: 8 35"),
        ("11 - 3 = 9\n7 * 5 = 35\n35 + 9 = 44\n", "11 - 3 = 9: that is not so"),
        ("11 * 11 = 121\n", "there is no 11 left"),
        ("7 * 5 = 35\n35 + 11 = 46\n46 - 2 = 44\n", "there is no 2 left"),
        ("5 - 7 = -2\n", "a line is no step"),
        ("7 / 5 = 1\n", "7 / 5 = 1: that is not so"),
        ("11 - 3 = 8\n\n7 * 5 = 35\n35 + 8 = 43\n", "a line is no step"),
        ("11 + 3 = 14\n14 + 7 = 21\n21 + 5 = 26\n", "the result is 26, not 43"),
        ("11 - 3 = 8\n7 * 5 = 35\n35 + 8 = 43\n43 + 43 = 86\n", "there is no 43 left"),
    ],
)
def test_faults_are_named(answer: str, fault: str | None) -> None:
    problem = Problem.parse("3 5 7 11 -> 43")
    found = problem.fault(answer)
    assert (found is None) == (fault is None) == problem.solves(answer)
    assert fault is None or (found is not None and fault in found)


@settings(deadline=None, max_examples=40)
@given(NUMBERS, st.integers(1, 99), st.randoms(use_true_random=False))
def test_rules_are_those_of_brute_force(numbers: Any, target: int, rng: random.Random) -> None:
    problem = Problem(numbers, target)
    found = list(endings(numbers))
    right = {lines for last, lines in found if last == target}
    assert problem.is_open() == bool(right)
    for last, lines in rng.sample(found, min(len(found), 5)):
        text = "\n".join(lines)
        assert problem.solves(text) == (last == target)
        assert Problem(numbers, last).solves(text)
        assert problem.left(text) == (last,)
        expression = problem.expression(text)
        assert expression is not None
        written, _, result = expression.rpartition(" = ")
        assert eval(written) == last == int(result)
        for count in range(len(lines)):
            can = any(other[:count] == lines[:count] for other in right)
            assert problem.is_open("\n".join(lines[:count])) == can
        wrong = (*lines[:-1], lines[-1].rpartition(" ")[0] + f" {last % 99 + 1}")
        assert not any(Problem(numbers, goal).solves("\n".join(wrong)) for goal in (last, last % 99 + 1))


def test_a_search_is_told_when_a_path_ends() -> None:
    problem = Problem.parse("3 5 7 -> 22")
    begun, done = path(problem, "5 * 3 = 15"), path(problem, "5 * 3 = 15", "15 + 7 = 22")
    wrong = path(problem, "5 * 3 = 15", "15 + 8 = 23")
    assert problem.finish(begun) is False
    assert problem.finish(done) == "(5 * 3) + 7 = 22"
    assert problem.finish(wrong) == "5 * 3 = 15\n15 + 8 = 23"
    assert problem.oracle([begun, done, wrong, path(problem, "5 + 3 = 8")]) == [1.0, 1.0, 0.0, 0.0]


def test_text_comes_back_from_its_tokens() -> None:
    tokenizer = countdown.tokenizer()
    text = "3 5 7 11 -> 43\n11 - 3 = 8, 7 * 5 = 35; 35 3 11\n99 / 9 = 11\n1 + 2 = 3\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer("3 5 7 11 -> 43\n")["input_ids"]) == 10
    assert len(tokenizer("11 - 3 = 8\n")["input_ids"]) == 6
    assert tokenizer("100")["input_ids"] == [tokenizer.unk_token_id]


def test_absent_weights_are_named(tmp_path: File) -> None:
    with pytest.raises(ArgumentError, match=r"train\.py large-traces|expected one of small"):
        countdown.load("large", traces=True)
    with pytest.raises(ArgumentError, match=r"Countdown model small is not in .*train\.py small trains it"):
        countdown.load(folder=tmp_path)
