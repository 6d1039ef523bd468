"""Draws what keeping a share of the keys gives, from the result of the bench ``keep_decode``.

    python scripts/plot_keep_decode.py docs/keep_decode.svg [RESULT]

Without a result it takes the one in ``benches/results``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent.parent / "benches" / "results"


def main(target: Path, files: list[Path]) -> None:
    files = files or sorted(RESULTS.glob("keep_decode-*.json"))
    if len(files) != 1:
        raise SystemExit(f"{len(files)} results of keep_decode, expected one")
    results = json.loads(files[0].read_text(encoding="utf-8"))["results"]
    matplotlib.rcParams.update({"svg.hashsalt": target.stem, "font.size": 9})
    figure, (shares, ratios) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    draw_shares(shares, results["recipes"])
    draw_ratios(ratios, results)
    for panel in (shares, ratios):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="x", alpha=0.3)
    title = f"{results['prompt_tokens']:,} tokens of prompt, {results['budget'].replace('%', ' %')} kept"
    figure.suptitle(title, fontsize=10)
    figure.savefig(target, metadata={"Date": None})


def draw_shares(axes: Any, recipes: dict[str, Any]) -> None:
    """Bytes that stay allocated, and time beside the prefill."""
    names = list(recipes)
    bars = {"bytes that stay": "pool_bytes", "time of the policy over the prefill's": "overhead"}
    for number, (label, key) in enumerate(bars.items()):
        at = [place + 0.4 * number for place in range(len(names))]
        drawn = axes.barh(at, [100 * recipes[name][key] for name in names], 0.35, label=label)
        axes.bar_label(drawn, fmt="%.1f", padding=3)
    axes.set_yticks([place + 0.2 for place in range(len(names))], names)
    axes.set_xlabel("%")
    axes.margins(x=0.15)
    axes.set_ylim(-0.4, len(names) + 0.5)
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def draw_ratios(axes: Any, results: dict[str, Any]) -> None:
    """How many times as fast, with intervals."""
    rows = {
        "attention of a step,\nover all keys": results["attention"],
        "decoding, over transformers\nwith its full cache": results["decode"],
        **{f"decoding, over kvpress\n({name})": row for name, row in results["decode_kvpress"].items()},
    }
    for at, row in enumerate(rows.values()):
        spread = [[row["median"] - row["low"]], [row["high"] - row["median"]]]
        axes.errorbar(row["median"], at, xerr=spread, fmt="o", color="C0", capsize=3)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel("times as fast")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path)
    parser.add_argument("results", type=Path, nargs="*")
    given = parser.parse_args()
    main(given.target, given.results)
