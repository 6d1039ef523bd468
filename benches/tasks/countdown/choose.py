"""Chooses the held-out problems of Countdown: how hard they are is fixed on the development split.

    python benches/tasks/countdown/choose.py

Problems are drawn forward, as those of training are, and belong to a split by their hash. First the small
model's best-of-16 is measured on problems of 3, 4 and 5 numbers of the development split, a kind at a time:
how often the one answer that the value head chooses is right. Then the shares of the kinds, tenths of the
whole, are those at which that should be nearest to :data:`AIM`, of equal ones those with most problems
of 4 numbers. 500 problems of these shares are drawn from the test split, none twice, and 500 from the
development split, on which it is measured once more. What a model does on the test split is never looked at.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "python"), str(Path(__file__).parent)]

import data
import numpy as np
import torch

import hornbeam as hb
from hornbeam.bench.search_lockstep import Writer, search_all
from hornbeam.tasks.countdown import Problem

FILE = ROOT / "python" / "hornbeam" / "tasks" / "countdown" / "problems.json"
SEED = 1
PROBLEMS = 500
#: Draws of 40,000 problems each that a kind is looked for in.
DRAWS = 40
#: What best-of-16 is to solve.
AIM = 0.32
LOWER = {"test": 0, "development": data.TEST}
UPPER = {"test": data.TEST, "development": data.TEST + data.DEVELOPMENT}


def drawn(split: str, counts: Mapping[int, int]) -> list[Problem]:
    """So many problems of each kind from a split, each once, or all that there are: small ones are few."""
    rng = np.random.default_rng([SEED, LOWER[split]])
    chosen = []
    for n, count in counts.items():
        seen: dict[tuple[tuple[int, ...], int], Problem] = {}
        for _ in range(DRAWS):
            if len(seen) == count:
                break
            found = data.draw(rng, 40_000, n)
            hashes = data.split_of(found.numbers, found.target)
            found = found.where((hashes >= LOWER[split]) & (hashes < UPPER[split]))
            for numbers, target in zip(found.numbers.tolist(), found.target.tolist(), strict=True):
                key = (tuple(sorted(numbers)), target)
                if len(seen) < count:
                    seen.setdefault(key, Problem(tuple(numbers), target))
        chosen += seen.values()
    return chosen


def measure(problems: list[Problem]) -> dict[str, float]:
    """What the small model does: one answer, the answer of best-of-16, and any of the 16."""
    runs = search_all(Writer("small"), problems, hb.recipes.best_of_n(16), seed=0)
    ended = [[node.is_right for node in run.nodes.values() if node.is_right is not None] for run in runs]
    return {
        "problems": len(problems),
        "one of 1": round(float(np.mean([np.mean(right) for right in ended])), 4),
        "submitted of 16": round(float(np.mean([run.moments[-1].submitted for run in runs])), 4),
        "any of 16": round(float(np.mean([run.moments[-1].any_right for run in runs])), 4),
    }


def shares(rates: Mapping[int, float], most: int) -> dict[int, int]:
    """How many of ten problems are of 3 (at most ``most``), 4 and 5 numbers, at least one of the last two."""
    grid = [
        (three, four, 10 - three - four) for three in range(min(most, 8) + 1) for four in range(1, 10 - three)
    ]

    def off(mix: tuple[int, int, int]) -> tuple[float, int]:
        expected = sum(count * rates[n] for n, count in zip((3, 4, 5), mix, strict=True)) / 10
        return round(abs(expected - AIM), 3), -mix[1]

    return dict(zip((3, 4, 5), min(grid, key=off), strict=True))


def main() -> None:
    torch.set_num_threads(1)
    kinds = {n: measure(drawn("development", {n: 300})) for n in (3, 4, 5)}
    print(json.dumps(kinds, indent=1), flush=True)
    few = min(len(drawn(split, {3: PROBLEMS})) for split in LOWER)
    rates = {n: figures["submitted of 16"] for n, figures in kinds.items()}
    chosen = shares(rates, 10 * few // PROBLEMS)
    counts = {n: share * PROBLEMS // 10 for n, share in chosen.items()}
    splits = {split: drawn(split, counts) for split in LOWER}
    report = {
        "best of 16 on the development split, by numbers": kinds,
        "problems by numbers": counts,
        "best of 16 on the development split": measure(splits["development"]),
        "splits": {split: [str(problem) for problem in problems] for split, problems in splits.items()},
    }
    FILE.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in report.items() if name != "splits"}, indent=1))


if __name__ == "__main__":
    main()
