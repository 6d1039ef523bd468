"""Searches in lockstep are those of the policies: the same trees as one search at a time would have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from hornbeam.bench import bench_search_countdown as bench
from hornbeam.bench.search_lockstep import Moment, Run, oracle, search_all
from hornbeam.tasks import countdown
from hornbeam.tasks.countdown import Problem
from tests.reference.countdown import endings

PROBLEMS = [Problem.parse(text) for text in ("3 5 7 -> 22", "4 4 2 9 -> 25", "2 3 12 -> 27")]


class Scripted:
    """Writes the allowed first steps of brute force in turn: what is written depends on the prefix alone."""

    traces = False

    def __init__(self) -> None:
        self.tokenizer = countdown.tokenizer()

    def prompt(self, problem: Problem) -> list[int]:
        ids: list[int] = self.tokenizer(problem.prompt)["input_ids"]
        return ids

    def write(
        self, prefixes: Sequence[Sequence[int]], rows: Sequence[int], most: int, *_: Any
    ) -> tuple[list[list[int]], list[float]]:
        steps, values = [], []
        for row in rows:
            text = self.tokenizer.decode(list(prefixes[row]), skip_special_tokens=True)
            prompt, _, begun = text.partition("\n")
            left = Problem.parse(prompt).left(begun)
            assert left is not None
            lines = sorted({lines[0] for _, lines in endings(left)})
            line = lines[sum(prefixes[row]) % len(lines)]
            steps.append(self.tokenizer(line + "\n")["input_ids"][:most])
            values.append(sum(steps[-1]) % 10 / 10)
        return steps, values


def alone(problem: Problem, policy: Any, seed: int, value: Any) -> dict[int, tuple[list[int], float]]:
    """The tree of one search by itself: the tokens and the value of every node."""
    writer, search = Scripted(), policy.open(seed)
    prompt = writer.prompt(problem)
    nodes: dict[int, tuple[list[int], float]] = {0: ([], 0.0)}
    while asked := search.ask():
        for one in asked:
            leaf = nodes[one.leaf][0]
            own = []
            for child in range(one.children):
                [step], [worth] = writer.write([[*prompt, *leaf]], [0], 6)
                text = writer.tokenizer.decode([*leaf, *step])
                own.append(worth if value is None else float(problem.is_open(text)))
                nodes[one.first_child + child] = ([*leaf, *step], own[-1])
            ended = (len(leaf) // 6 + 1) >= problem.num_steps
            search.tell(one.trial, own, [ended] * one.children)
    return nodes


@pytest.mark.parametrize("name", bench.RECIPES)
@pytest.mark.parametrize("value", [None, oracle], ids=["head", "oracle"])
def test_trees_are_those_of_one_search_at_a_time(name: str, value: Any) -> None:
    policy = bench.RECIPES[name](4)
    writer: Any = Scripted()
    for i, run in enumerate(search_all(writer, PROBLEMS, policy, 0, value)):
        tree = alone(run.problem, policy, i, value)
        assert {number: (node.ids, node.value) for number, node in run.nodes.items()} == tree
        assert run.tokens == 6 * (len(tree) - 1) == run.moments[-1].tokens
        ended = [node for node in run.nodes.values() if node.is_right is not None]
        best = max(ended, key=lambda node: node.value)
        assert run.moments[-1].submitted == best.is_right
        assert run.moments[-1].any_right == any(node.is_right for node in ended)


def test_no_search_writes_more_than_it_may() -> None:
    writer: Any = Scripted()
    policy = bench.RECIPES["rebase"](4)
    runs = search_all(writer, PROBLEMS, policy, 0, most_tokens=40)
    assert [run.tokens for run in runs] == [36, 36, 36]  # six steps of six tokens
    assert runs[1].at(30) == runs[1].moments[1]


def with_moments(*moments: tuple[int, bool]) -> Run:
    run = Run(PROBLEMS[0], None)
    run.moments += [Moment(tokens, 0, right, right) for tokens, right in moments]
    run.tokens = run.moments[-1].tokens
    return run


def test_tokens_to_reach_are_those_of_the_least_cap() -> None:
    theirs = [[with_moments((100, True)), with_moments((100, True)), with_moments((100, False))]]
    ours = [[with_moments((10, True)), with_moments((10, False), (20, True)), with_moments((50, False))]]
    # At a cap of 20 both problems are solved, for 10 + 20 tokens; the third has written none yet.
    found = bench.tokens_to_reach(ours, theirs, False)
    assert found is not None
    assert found["ratio"] == 0.1
    assert bench.tokens_to_reach([ours[0][2:] * 3], theirs, False) is None


def test_a_ratio_lies_in_its_interval() -> None:
    ours, theirs = np.array([1.0, 1.0, 0.0, 1.0] * 50), np.array([1.0, 0.0, 0.0, 1.0] * 50)
    found = bench.ratio(ours, theirs)
    assert found["ratio"] == 1.5
    assert 1.2 < found["low"] < 1.5 < found["high"] < 1.9


def test_curves_are_read_between_their_points() -> None:
    curve = [(100.0, 0.1), (400.0, 0.3), (1600.0, 0.2)]
    assert bench.reached(curve, 0.2) == pytest.approx(200)
    assert bench.reached(curve, 0.05) == 100
    assert bench.reached(curve, 0.4) is None
