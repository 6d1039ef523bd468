"""``hornbeam search``: what is checked before a model is loaded, what is printed where, and the tree."""

from __future__ import annotations

import inspect
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import hornbeam as hb
from hornbeam.cli import choices, tasks
from hornbeam.cli.named import function_of
from hornbeam.cli.screen import Screen
from hornbeam.cli.search_screen import drawn, searching, vote_lines
from hornbeam.errors import ArgumentError
from hornbeam.model import loading
from hornbeam.recipes import search as recipes
from hornbeam.search import Budget, Ledger, Policy, SearchProgress, SearchTree, StepEnd
from hornbeam.search import Path as Way
from tests import models
from tests.cli.conftest import Run

JUDGE = """
import zlib

def value(paths):
    return [zlib.crc32(bytes(path.token_ids)) / 2**32 for path in paths]

def third(path):
    return f"answer {path.node % 2}" if path.depth == 3 else None

def broken(paths):
    if paths[0].depth == 2:
        raise RuntimeError("no idea")
    return value(paths)

number = 3
"""


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of one's own in the current folder."""
    (tmp_path / "own_judge.py").write_text(JUDGE)
    (tmp_path / "own_lacking.py").write_text("import none_such\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("own_judge", None)


def search(run: Run, folder: Path, *options: str) -> Any:
    """On the tiny model, in steps of four tokens."""
    short = [
        "--delimiter",
        "",
        "--max-step-tokens",
        "4",
        "--max-depth",
        "3",
        "--width",
        "4",
        "--draft",
        "none",
    ]
    judged = ["--value", "own_judge:value", "--finish", "own_judge:third"]
    return run("search", "where to?", "--raw", "--model", folder, *short, *judged, *options)


def test_the_recipes_that_are_named_are_those_that_there_are() -> None:
    over_steps = [name for name in recipes.__all__ if isinstance(getattr(recipes, name)(), Policy)]
    assert list(choices.SEARCH_RECIPES) == sorted(over_steps)
    for name, own in choices.SEARCH_RECIPES.items():
        fields = inspect.signature(type(getattr(recipes, name)())).parameters
        assert set(own.values()) <= set(fields)
        arguments = choices.check_search_recipe(name, dict.fromkeys(own, 2))
        policy = choices.search_recipe(name, arguments | {"temperature": 0.5, "max_depth": 7})
        assert [getattr(policy, field) for field in own.values()] == [2] * len(own)
        assert (policy.temperature, policy.max_depth) == (0.5, 7)


@pytest.mark.usefixtures("judge")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "none"], '--recipe is "none", expected one of: a_star, best_of_n'),
        (["--recipe", "a_star", "--width", "3"], "--width goes with --recipe best_of_n, dvts,"),
        (
            ["--recipe", "rebase", "--children", "3"],
            "--children goes with --recipe a_star, dvts, step_beam, got",
        ),
        (["--balance", "0"], "balance is 0.0, expected a positive number"),
        (["--task", "none"], '--task is "none", expected one of: countdown'),
        (["--task", "countdown", "--raw"], "--raw is given with --task: a task has a prompt"),
        (["--task", "countdown", "--finish", "a:b"], "--finish is given with --task"),
        (
            ["--task", "countdown", "--device", "cuda"],
            "--device is given with --task: the model of a task is",
        ),
        (["--system", "x", "--raw"], "--system is a part of the chat template, which --raw leaves out"),
        (["--seed", "-1"], "seed is -1, expected 0 to 18446744073709551615"),
        (["--kv-bytes", "much"], "kv_bytes is 'much', expected"),
        (["--value", "own_judge"], '--value is "own_judge", expected module:function'),
        (["--value", "own judge:value"], '--value is "own judge:value", expected module:function'),
        (["--value", "none.such:value"], "there is no module none.such, neither in"),
        (["--value", "own_judge:none"], '--value is "own_judge:none", and own_judge has no none'),
        (["--value", "own_judge:number"], '--value is "own_judge:number", a int, expected a function'),
        (["--finish", "hornbeam:Budget"], '--finish is "hornbeam:Budget", a class, expected a function'),
        (["--value", "own_lacking:value"], "ModuleNotFoundError: No module named 'none_such'"),
        (["--trace", "no/such/folder.html"], "No such file"),
        (["--device", "banana"], 'device is "banana", expected cpu'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options_are_checked_before_a_model_is_loaded(
    run: Run, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(loading, "check", lambda _: None)
    for name in ("resolve", "load_model", "load_tokenizer"):
        monkeypatch.setattr(loading, name, fail)
    result = run("search", "hello", *options)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.usefixtures("judge")
def test_the_chosen_text_goes_to_stdout_and_the_rest_to_stderr(run: Run, folder: Path) -> None:
    page = Path("out.html")
    told = search(run, folder, "--json", "--trace", str(page))
    assert told.exit_code == 0, told.output
    assert told.stderr == ""
    found = json.loads(told.stdout)
    result = search(run, folder)
    assert result.exit_code == 0
    assert result.stdout == found["text"] + "\n"
    *rounds, first, second, last = result.stderr.splitlines()
    assert [line.split(":")[0] for line in rounds] == ["round 1", "round 2", "round 3"]
    assert "12 paths, 0 live, 4 finished, best value" in rounds[-1]
    votes = [(answer["votes"], answer["text"]) for answer in found["answers"]]
    assert sum(count for count, _ in votes) == 4
    for line, (count, text) in zip((first, second), votes, strict=True):
        assert re.fullmatch(rf"{count} votes?, values \d\.\d+ in all: {text}", line)
    assert last.startswith("the search ended by itself; 48 tokens, ")
    assert "12 paths valued, KV " in last
    assert found["ledger"]["tokens"] == 48
    assert found["stop"] == "over"
    assert len(found["nodes"]) == 12
    assert "hornbeam search" in page.read_text()
    again = search(run, folder, "--select", "majority", "--recipe", "best_of_n", "--json")
    assert json.loads(again.stdout)["answer"] == json.loads(again.stdout)["answers"][0]["text"]


@pytest.mark.usefixtures("judge")
def test_a_budget_ends_a_search(run: Run, folder: Path) -> None:
    result = search(run, folder, "--tokens", "20", "--forwards", "1000", "--kv-bytes", "4000000")
    assert result.exit_code == 0, result.output
    assert "the budget of tokens was spent: this is the best so far; 20 tokens" in result.stderr
    nothing = search(run, folder, "--verifier-calls", "0")
    assert nothing.exit_code == 2
    assert "was spent before any path was valued" in nothing.stderr
    assert nothing.stdout == ""


@pytest.mark.usefixtures("judge")
def test_a_value_that_fails_leaves_the_best_so_far(run: Run, folder: Path) -> None:
    result = search(run, folder, "--value", "own_judge:broken")
    assert result.exit_code == 2
    assert result.stdout.strip()
    *_, ended, error = result.stderr.splitlines()
    assert ended.startswith("the search ended with an error: this is the best so far; ")
    assert error == "hornbeam: RuntimeError: no idea"


@pytest.mark.usefixtures("judge")
def test_an_interrupt_shows_the_best_so_far(run: Run, folder: Path) -> None:
    Path("own_judge.py").write_text(JUDGE.replace('RuntimeError("no idea")', "KeyboardInterrupt"))
    result = search(run, folder, "--value", "own_judge:broken")
    assert result.exit_code == 130
    assert result.stdout.strip()
    assert "the search was interrupted: this is the best so far" in result.stderr


@pytest.mark.usefixtures("judge")
def test_delimiters_are_told_with_escapes(run: Run, folder: Path) -> None:
    told = search(run, folder, "--delimiter", r"\n", "--json")
    assert json.loads(told.stdout)["settings"]["delimiter"] == repr("\n")
    told = search(run, folder, "--delimiter", r"a\\b\t\q", "--json")
    assert json.loads(told.stdout)["settings"]["delimiter"] == repr("a\\b\t\\q")
    told = search(run, folder, "--json")
    assert json.loads(told.stdout)["settings"]["delimiter"] == "none"


def toy(text: str) -> tasks.Task:
    """A task whose model is tiny, and whose answers are right where they have an even number of tokens."""
    if not text.isdecimal():
        raise ArgumentError(f"problem is {text!r}, expected a number")
    return tasks.Task(
        prompt=f"{text}=",
        max_depth=2,
        step=StepEnd(None, 3),
        finish=lambda path: f"{text} in {path.depth}" if path.depth == 2 else None,
        fault=lambda found: None if int(text) % 2 == 0 else "it is odd",
        open_lm=lambda: hb.LM(models.llama(), models.byte_tokenizer()),
        open_value=lambda: lambda paths: [float(path.node) for path in paths],
    )


def test_a_task_has_a_model_and_checks_the_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.TASKS, "toy", toy)
    options = ["--task", "toy", "--width", "3", "--draft", "none"]
    result = run("search", "12", *options)
    assert result.exit_code == 0, result.output
    assert "\nsolved: 12 in 2\n" in result.stderr
    result = run("search", "11", *options)
    assert result.exit_code == 0
    assert "\nnot solved: it is odd\n" in result.stderr
    told = json.loads(run("search", "11", *options, "--max-depth", "1", "--json").stdout)
    assert (told["task"], told["solved"], told["fault"]) == ("toy", False, "it is odd")
    assert told["prompt"] == "11="
    assert told["settings"]["max_depth"] == "1"
    assert told["value"] == 3.0
    result = run("search", "many", *options)
    assert result.exit_code == 2
    assert result.stderr == "hornbeam: problem is 'many', expected a number\n"


def test_a_model_takes_the_place_of_a_tasks_own(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tasks.TASKS, "toy", toy)
    result = run(
        "search", "12", "--task", "toy", "--width", "2", "--draft", "none", "--model", folder, "--json"
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["solved"] is True
    assert told["settings"]["value"] == "Likelihood"


def test_functions_are_found_below_what_a_module_holds() -> None:
    assert function_of("hornbeam.search:select.best", "--value") is hb.search.select.best
    with pytest.raises(ArgumentError, match=r"and hornbeam.search.select has no none"):
        function_of("hornbeam.search:select.none", "--value")


def progress(number: int, *, width: int = 3, depth: int = 4) -> SearchProgress:
    """A tree in which each path has ``width`` children, of which the first goes on."""
    root = Way(0, None, "", [], [], 0, [1])
    tree, leaf = SearchTree({0: root}), root
    live: list[int] = []
    for level in range(1, depth + 1):
        first = len(tree.paths)
        for place in range(width):
            node = first + place
            text = f"{leaf.text}\x1b[31m step {level}.{place}\n"
            ends = level == depth and place == 1
            tree.paths[node] = Way(
                node, leaf, text, [node], [], 0, [1], is_finished=ends, value=1 / (1 + place) - level / 100
            )
        live += [first + place for place in range(1, width)]
        leaf = tree.paths[first]
    live = [node for node in [*live, leaf.node] if not tree.paths[node].is_finished]
    return SearchProgress(number, tree, live, Ledger(), Budget(tokens=100))


def test_the_tree_shows_ends_and_where_paths_part() -> None:
    lines = drawn(progress(1), 100).plain.splitlines()
    assert [line.replace("\ufffd[31m ", "") for line in lines] == [
        "├· 0.990 step 1 step 1.0",
        "│├· 0.980 step 2 step 2.0",
        "││├· 0.970 step 3 step 3.0",
        "│││├● 0.960 step 4 step 4.0",
        "│││├■ 0.460 step 4 step 4.1",
        "│││└● 0.293 step 4 step 4.2",
        "││├● 0.470 step 3 step 3.1",
        "││└● 0.303 step 3 step 3.2",
        "│├● 0.480 step 2 step 2.1",
        "│└● 0.313 step 2 step 2.2",
        "├● 0.490 step 1 step 1.1",
        "└● 0.323 step 1 step 1.2",
    ]


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 20])
def test_a_tree_keeps_to_its_lines_and_to_the_best(most: int) -> None:
    lines = drawn(progress(1, width=5, depth=6), most).plain.splitlines()
    assert len(lines) <= max(most, 2)
    assert any("■" in line for line in lines), "the best of the finished paths is always there"
    if most < 20:
        assert re.fullmatch(r"and \d+ more", lines[-1])


def test_a_terminal_has_the_tree_and_another_output_lines() -> None:
    screen = Screen()
    screen.progress = Console(file=io.StringIO(), force_terminal=True, width=80, height=20)
    screen.notes = Console(file=io.StringIO(), width=60)
    with searching(screen) as watch:
        watch(progress(2))
        shown = screen.progress.file.getvalue()  # type: ignore[attr-defined]
    assert "round 2: 12 paths, ● 8 live, ■ 1 finished, best value 0.990" in shown
    assert "0 of 100 tokens" in shown
    assert "│││├■ 0.460 step 4" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "\x1b[31m step" not in shown, "codes of the model's text are not obeyed"
    assert screen.notes.file.getvalue() == ""  # type: ignore[attr-defined]
    screen.progress = Console(file=io.StringIO(), width=60)
    with searching(screen) as watch:
        for number in (1, 2, 2):
            watch(progress(number))
    assert screen.progress.file.getvalue() == ""  # type: ignore[attr-defined]
    lines = screen.notes.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split(":")[0] for line in lines] == ["round 1", "round 2"]
    assert "0 tokens, 0 forward passes, 0 paths valued, KV 0.0 MB at most, 0.00 s" in lines[0]


def test_votes_are_said_where_there_are_some() -> None:
    def answers(*votes: tuple[str, int]) -> list[Any]:
        return [SimpleNamespace(text=text, votes=count, value=0.5 * count) for text, count in votes]

    assert vote_lines([]) == vote_lines(answers(("a", 1))) == []
    assert vote_lines(answers(("a", 1), ("b", 1))) == ["2 finished paths, each with an answer of its own"]
    assert vote_lines(answers(("a", 3))) == ["3 votes, values 1.500 in all: a"]
    many = vote_lines(answers(("word \x1b" * 40, 2), *((letter, 1) for letter in "abcdef")))
    assert many[0].startswith("2 votes, values 1.000 in all: word \ufffdword")
    assert many[0].endswith("…")
    assert len(many[0]) == len("2 votes, values 1.000 in all: ") + 80
    assert many[1] == "1 vote, values 0.500 in all: a"
    assert many[-1] == "and 2 further answers"
    assert len(many) == 6


def test_a_stand_in_for_a_path_is_not_needed() -> None:
    """Before anything was valued there is nothing to draw, and nothing fails."""
    empty = SimpleNamespace(tree=progress(0, depth=0).tree, live=[])
    assert drawn(empty, 5).plain == ""
