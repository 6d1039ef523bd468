"""The measuring tools: order of calls, ratios, intervals, and the README's table."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benches import table
from hornbeam.bench import harness

ROOT = Path(__file__).parent.parent.parent


def test_calls_alternate_and_the_warm_up_is_not_counted() -> None:
    calls: list[str] = []

    def call(name: str, seconds: float | None) -> Any:
        def run() -> float | None:
            calls.append(name)
            return seconds

        return run

    taken = harness.alternate({"a": call("a", 0.5), "b": call("b", None)}, alternations=3, warm_up=2)
    assert calls == ["a", "b"] * 5
    assert taken["a"] == [0.5] * 3
    assert len(taken["b"]) == 3
    assert all(0 <= seconds < 0.5 for seconds in taken["b"])


def test_a_ratio_is_taken_pair_by_pair() -> None:
    """A machine that slows down tenfold midway changes no pair, hence not the ratio."""
    ours = [1.0, 1.0, 1.0, 10.0, 10.0, 10.0, 10.0]
    ratio = harness.ratio(ours, [2 * seconds for seconds in ours])
    assert (ratio.median, ratio.low, ratio.high, ratio.alternations) == (2.0, 2.0, 2.0, 7)
    assert ratio.ours_seconds == 10.0
    assert ratio.theirs_seconds == 20.0
    with pytest.raises(ValueError, match="zip"):
        harness.ratio([1.0], [1.0, 2.0])


@pytest.mark.parametrize(("count", "inner"), [(1, 0), (5, 0), (7, 0), (8, 0), (9, 1), (12, 2), (20, 5)])
def test_the_interval_is_that_of_the_sign_test(count: int, inner: int) -> None:
    """The second column is tabulated: the nonparametric 95 % interval of a median."""
    assert harness.interval(range(count)) == (inner, count - 1 - inner)


def test_the_interval_covers_the_median() -> None:
    generator = random.Random(0)
    covered = 0
    for _ in range(2000):
        low, high = harness.interval(sorted(generator.gauss(0, 1) for _ in range(9)))
        covered += low <= 0 <= high
    assert 0.94 <= covered / 2000 <= 0.98


def test_the_geometric_mean_of_inverse_ratios_is_one() -> None:
    assert harness.geometric_mean([4.0, 0.25]) == pytest.approx(1.0)
    assert harness.geometric_mean([3.0]) == pytest.approx(3.0)
    assert math.isclose(harness.geometric_mean([1.0, 8.0]), 8**0.5)


def test_a_result_holds_the_machine_and_the_command(tmp_path: Path) -> None:
    ratio = harness.ratio([1.0] * 7, [2.0] * 7)
    file = harness.write("name", {"row": [ratio]}, "the command", tmp_path / "deep" / "result.json")
    report = json.loads(file.read_text())
    assert report["command"] == "the command"
    assert report["results"]["row"][0]["median"] == 2.0
    assert {"processor", "torch", "profile", "revision"} <= set(report["machine"])
    assert str(Path.home()) not in file.read_text()


def test_a_table_shows_what_was_measured() -> None:
    fast = harness.plain(harness.ratio([1.0] * 7, [2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6]))
    report = {
        "command": "python benches/run.py generate",
        "machine": {"transformers": "5", "torch": "2", "processor": "p", "threads": 2, "revision": "abc"},
        "results": {
            "edit": {"jobs": 1, "identical": 1, "hornbeam": fast, "prompt_lookup": fast},
            "batch": {"jobs": 8, "identical": 7, "hornbeam": fast},
        },
    }
    lines = table.render([report]).splitlines()
    assert lines[-2] == "| edit a file (`make demo`) | 2.30x [2.00, 2.60] | 2.30x [2.00, 2.60] | 1 of 1 |"
    assert lines[-1].endswith("| 2.30x [2.00, 2.60] | not available | 7 of 8 |")


def test_only_what_is_between_the_markers_changes() -> None:
    text = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    assert table.replaced(text, "new") == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"
    assert table.replaced(table.replaced(text, "new"), "") == f"before\n{table.BEGIN}\n{table.END}\nafter\n"
    with pytest.raises(SystemExit, match="has no"):
        table.replaced("nothing", "new")


def test_the_readme_shows_the_results_that_are_kept() -> None:
    command = [sys.executable, str(ROOT / "benches" / "table.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_rows_of_a_result_are_replaced_and_say_their_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "result.json"
    revisions = iter(["one", "two", "three", "four"])
    monkeypatch.setattr(harness, "machine", lambda: {"processor": "x", "revision": next(revisions)})
    harness.write("b", {"fast": 1, "slow": 2}, "run b", file)
    harness.write("b", {"slow": 3}, "run b --only slow", file, rows=["slow"])
    harness.write("b", {"new": 4}, "run b --only new", file, rows=["new"])
    report = json.loads(file.read_text())
    assert report["results"] == {"fast": 1, "slow": 3, "new": 4}
    assert {row: entry["revision"] for row, entry in report["measured"].items()} == {
        "fast": "one",
        "slow": "two",
        "new": "three",
    }
    with pytest.raises(SystemExit, match="holds results of b, expected those of c"):
        harness.write("c", {}, "run c", file, rows=["slow"])
