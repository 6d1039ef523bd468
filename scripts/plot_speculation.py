"""Draws accepted lengths and speed-ups from the results of the benches ``spec_accept`` and ``spec_generate``.

    python scripts/plot_speculation.py docs/speculation.svg [RESULT ...]

Without results it takes those in ``benches/results``; of two of a bench the later one by name. What there is
no result of is left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent.parent / "benches" / "results"
OURS, THEIRS = "#2a6f97", "#b0b7bd"
# The mean that free chat is to reach: a dotted line.
AIM = 1.25


def main(target: Path, files: list[Path]) -> None:
    files = files or sorted(RESULTS.glob("spec_*.json"))
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    found = {report["bench"]: report["results"] for report in reports}
    panels = [(draw, found[name]) for name, draw in PANELS.items() if name in found]
    if not panels:
        raise SystemExit(f"no results of {', '.join(PANELS)} among {[str(file) for file in files]}")
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, 3.6 * len(panels)), layout="constrained")
    for (draw, results), own in zip(panels, [axes] if len(panels) == 1 else axes, strict=True):
        draw(own, results)
        own.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, metadata={"Date": None})


def accepted(axes: Any, results: dict[str, Any]) -> None:
    """Expected accepted tokens a step, a bar a tree and rule."""
    report = results["accept"]
    values = report["accepted_per_step"]
    names = sorted(values, key=lambda name: values[name])
    is_ours = [name == report["chosen"] for name in names]
    labels = [
        f"{name}, without replacement" if own else name for name, own in zip(names, is_ours, strict=True)
    ]
    bars = axes.barh(
        labels, [values[name] for name in names], color=[OURS if own else THEIRS for own in is_ours]
    )
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.margins(x=0.12)
    axes.set_title(f"trees of at most {report['drafted_tokens']} tokens, temperature 1", fontsize=10)
    axes.set_xlabel("accepted tokens a step")
    axes.grid(axis="x", alpha=0.3)


def speed(axes: Any, results: dict[str, Any]) -> None:
    """Every prompt's speed-up, ascending, and the edits beside them."""
    chat = sorted(entry["ratio"] for entry in results.get("free_chat", {}).get("prompts", []))
    if chat:
        mean = results["free_chat"]["hornbeam"]["geometric_mean"]
        axes.plot(range(1, len(chat) + 1), chat, "o", color=OURS, label=f"free chat, mean {mean:.2f}")
        axes.axhline(AIM, color=OURS, linestyle=":", linewidth=1)
    top = max(chat, default=0.0)
    for number, (name, row) in enumerate(results.get("edits", {}).get("rows", {}).items()):
        at, ratio = len(chat) + 4 + 4 * number, row["hornbeam"]
        top = max(top, 1.5 * ratio["high"])
        spread = [[ratio["median"] - ratio["low"]], [ratio["high"] - ratio["median"]]]
        axes.errorbar(at, ratio["median"], yerr=spread, fmt="s", color="#c8553d", capsize=3)
        axes.text(at, ratio["high"] + 0.1, name, rotation=90, ha="center", va="bottom", fontsize=8)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_ylim(0, 1.05 * top)
    axes.set_xlabel("prompts, and edits of given text")
    axes.set_ylabel("times transformers' tokens a second")
    axes.grid(axis="y", alpha=0.3)
    if chat:
        axes.legend(frameon=False, loc="upper left")


PANELS = {"spec_accept": accepted, "spec_generate": speed}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path)
    parser.add_argument("results", type=Path, nargs="*")
    given = parser.parse_args()
    main(given.target, given.results)
