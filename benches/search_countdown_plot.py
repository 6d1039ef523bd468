"""Draws docs/search_countdown.svg from the result of the search_countdown bench.

    python benches/search_countdown_plot.py [RESULT]

RESULT is by default the one file ``results/search_countdown-*.json``. A line a recipe: what it solves over
the tokens that a problem takes, on the left with the value head, on the right under the oracle.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benches" / "results"
TITLES = {"value": "value head, the one answer handed in", "oracle": "oracle, any path that ended"}


def curves(row: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """(tokens, share solved) of each recipe, by width."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, cell in row.items():
        if isinstance(cell, dict):
            found.setdefault(name.partition(" of ")[0], []).append((cell["tokens"], cell["solved"]))
    return {name: sorted(points) for name, points in found.items()}


def draw(report: dict[str, Any], file: Path) -> None:
    """One panel a row of the result."""
    matplotlib.rcParams["svg.hashsalt"] = "hornbeam"
    rows = [row for row in TITLES if row in report["results"]]
    figure, panels = plt.subplots(1, len(rows), figsize=(4.6 * len(rows), 3.6), sharey=True, squeeze=False)
    for panel, row in zip(panels[0], rows, strict=True):
        for name, points in curves(report["results"][row]).items():
            style = dict(color="black", linestyle="--") if name == "best_of_n" else {}
            panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, **style)
        panel.set(xscale="log", title=TITLES[row], xlabel="tokens a problem")
        panel.title.set_size("medium")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("problems solved")
    panels[0][0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", nargs="?", type=Path)
    result = parser.parse_args().result
    if result is None:
        [result] = RESULTS.glob("search_countdown-*.json")
    draw(json.loads(result.read_text(encoding="utf-8")), ROOT / "docs" / "search_countdown.svg")


if __name__ == "__main__":
    main()
