"""Chooses the held-out problems of Countdown: how hard they are is fixed on the development split.

    python benches/tasks/countdown/choose.py measure            # what the small model solves, by kind
    python benches/tasks/countdown/choose.py write 3:50 4:300 5:150

Problems are drawn forward, as those of training are, and belong to a split by their hash. ``measure`` says,
for problems of 3, 4 and 5 numbers of the development split, how often the one answer of best-of-16 (the value
head chooses) is right. ``write`` draws the test split with so many problems of each kind, none twice, and a
development split of the same shares, and says what best-of-16 does on the latter; it never looks at what a
model does on the test split.
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
LOWER = {"test": 0, "development": data.TEST}
UPPER = {"test": data.TEST, "development": data.TEST + data.DEVELOPMENT}


def drawn(split: str, counts: Mapping[int, int]) -> list[Problem]:
    """So many problems of each kind from a split, each once."""
    rng = np.random.default_rng([SEED, LOWER[split]])
    chosen = []
    for n, count in counts.items():
        seen: dict[tuple[tuple[int, ...], int], Problem] = {}
        while len(seen) < count:
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


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    if words[:1] == ["measure"]:
        for n in (3, 4, 5):
            print(n, measure(drawn("development", {n: 300})), flush=True)
        return
    if words[:1] != ["write"]:
        sys.exit(__doc__)
    counts = {int(kind): int(count) for kind, count in (word.split(":") for word in words[1:])}
    splits = {split: drawn(split, counts) for split in LOWER}
    report = {
        "counts": counts,
        "best of 16 on the development split": measure(splits["development"]),
        "splits": {split: [str(problem) for problem in problems] for split, problems in splits.items()},
    }
    FILE.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in report.items() if name != "splits"}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
