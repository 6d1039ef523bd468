"""Draws the ``log.json`` of ``hornbeam train-head``.

python scripts/plot_feature_head.py docs/feature_head.json docs/feature_head.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt


def main(source: Path, target: Path) -> None:
    report = json.loads(source.read_text(encoding="utf-8"))
    log, final = report["log"], report["held_out"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for depth in range(3):
        curve = [entry["held_out"][depth]["overlap"] for entry in log]
        left.plot([entry["tokens"] / 1e3 for entry in log], curve, label=f"guess {depth + 1}")
    left.set_xlabel("tokens seen in training, thousands")
    left.set_ylabel("held-out sum of min(p, q)")
    left.legend(frameon=False)
    depths = [entry["depth"] for entry in final]
    right.plot(depths, [entry["overlap"] for entry in final], "o-", label="sum of min(p, q)")
    right.plot(depths, [entry["greedy"] for entry in final], "s--", label="same best token")
    right.set_xlabel("guess")
    right.set_ylabel("held-out share, trained head")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_ylim(0, None)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
