"""Renders the tables and the plot of docs/keep.md from the result of the keep_quality bench.

    python benches/keep_quality_table.py [RESULT]

Everything between the markers ``<!-- keep_quality -->`` and ``<!-- /keep_quality -->`` is replaced, and
docs/keep_quality.svg is drawn anew. RESULT is by default the one file ``results/keep_quality-*.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "python"))

from hornbeam.bench.bench_keep_quality import CHECKED_KEEP

RESULTS = ROOT / "benches" / "results"
NAME = "keep_quality"


def render(report: dict[str, Any]) -> str:
    """Markdown of all that the result holds."""
    results, machine = report["results"], report["machine"]
    peer = results["peer"]
    parts = [
        f"`{report['command']}`, the default model in float32, beside kvpress {peer['kvpress']} with "
        f"transformers {peer['transformers']} and torch {peer['torch']} in an environment of its own; "
        f"hornbeam {machine['revision']}, torch {machine['torch']}, {machine['processor']}."
    ]
    if "needles" in results:
        parts += needles(results["needles"])
    if "perplexity" in results:
        parts += perplexity(results["perplexity"])
    if "kept_by_one_side" in results["check"]:
        parts += other_keys(results)
    return "\n".join(parts)


def needles(found: dict[str, Any]) -> list[str]:
    full = found["full_cache"]
    lengths = ", ".join(f"{count} of {int(length):,}" for length, count in found["lengths"].items())
    keeps = [key for key in found["recipes"]["snap_kv"] if key != "press"]
    lines = [
        "",
        f"**Needles**: {found['needles']} of them in {found['contexts']} contexts ({lengths} tokens). "
        f"The full cache finds {full['ours']:.1f} % on our side and {full['kvpress']:.1f} % on kvpress's "
        f"({full['differing']} answers differ). A cell is ours / kvpress in percent, then the paired "
        "difference in points with its interval of 95 %.",
        "",
        f"| recipe | press | {' | '.join(f'keep {100 * float(keep):g} %' for keep in keeps)} |",
        f"| --- | --- |{' --- |' * len(keeps)}",
    ]
    for name, row in found["recipes"].items():
        cells = " | ".join(cell(row[keep]) for keep in keeps)
        lines.append(f"| `{name}` | {pressed(row)} | {cells} |")
    return lines


def cell(row: dict[str, Any]) -> str:
    if "kvpress" not in row:
        return f"{row['ours']:.1f}"
    low, high = row["interval"]
    return f"{row['ours']:.1f} / {row['kvpress']:.1f}, {row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"


def perplexity(found: dict[str, Any]) -> list[str]:
    full = found["full_cache"]
    lines = [
        "",
        f"**Perplexity** at keep {100 * found['keep']:g} %: {found['windows']} windows, each of "
        f"{found['context_tokens']:,} tokens that are compressed and the next ones scored, "
        f"{found['tokens_scored']:,} in all. The full cache has {full['ours']:.3f} on our side and "
        f"{full['kvpress']:.3f} on kvpress's.",
        "",
        "| recipe | press | ours | kvpress | ours over kvpress |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in found["recipes"].items():
        line = f"| `{name}` | {pressed(row)} | {row['ours']:.2f} |"
        if row["press"] is not None:
            low, high = row["interval"]
            line += f" {row['kvpress']:.2f} | {row['ratio']:.4f} [{low:.4f}, {high:.4f}] |"
        else:
            line += " | |"
        lines.append(line)
    return lines


def other_keys(results: dict[str, Any]) -> list[str]:
    """Where recipe and press choose differently from one and the same prefill."""
    presses = {name: row for part in ("needles", "perplexity") for name, row in recipes_of(results, part)}
    lines = [
        "",
        f"**The same keys?** Of the keys that a recipe kept of one context at keep {100 * CHECKED_KEEP:g} %, "
        "so many were not among those that the press kept, after one and the same prefill.",
        "",
        "| recipe | press | other keys |",
        "| --- | --- | --- |",
    ]
    for name, share in results["check"]["kept_by_one_side"].items():
        lines.append(f"| `{name}` | {pressed(presses[name])} | {100 * share:.2g} % |")
    return lines


def recipes_of(results: dict[str, Any], part: str) -> list[tuple[str, dict[str, Any]]]:
    return list(results.get(part, {"recipes": {}})["recipes"].items())


def pressed(row: dict[str, Any]) -> str:
    return "none" if row["press"] is None else f"`{row['press']}`"


def plot(found: dict[str, Any], target: Path) -> None:
    """Needles found, by recipe, a panel a share kept."""
    rows = found["recipes"]
    keeps = [key for key in rows["snap_kv"] if key != "press"]
    names = sorted(rows, key=lambda name: sum(rows[name][keep]["ours"] for keep in keeps))
    matplotlib.rcParams.update({"svg.hashsalt": NAME, "font.size": 8})
    figure, panels = plt.subplots(1, len(keeps), figsize=(8.5, 3.6), sharey=True, sharex=True)
    for panel, keep in zip(panels, keeps, strict=True):
        panel.axvline(found["full_cache"]["ours"], color="0.6", linestyle=":", label="full cache")
        for height, name in enumerate(names):
            row = rows[name][keep]
            if "kvpress" in row:
                panel.plot([row["kvpress"], row["ours"]], [height, height], color="0.8", zorder=1)
        beside = [n for n, name in enumerate(names) if "kvpress" in rows[name][keep]]
        values = [rows[names[n]][keep]["kvpress"] for n in beside]
        panel.scatter(values, beside, marker="o", facecolors="none", edgecolors="C1", s=40, label="kvpress")
        values = [rows[name][keep]["ours"] for name in names]
        panel.scatter(values, range(len(names)), marker="o", color="C0", s=14, label="hornbeam")
        panel.set_title(f"keep {100 * float(keep):g} %")
        panel.set_xlabel("needles found (%)")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def replaced(text: str, content: str) -> str:
    """``text`` with ``content`` between the markers."""
    begin, end = f"<!-- {NAME} -->", f"<!-- /{NAME} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"docs/keep.md has no {begin} ... {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="*")
    files = parser.parse_args().results or sorted(RESULTS.glob(f"{NAME}-*.json"))
    if len(files) != 1:
        raise SystemExit(f"{len(files)} results of {NAME}, expected one")
    report = json.loads(files[0].read_text(encoding="utf-8"))
    page = ROOT / "docs" / "keep.md"
    page.write_text(replaced(page.read_text(encoding="utf-8"), render(report)), encoding="utf-8")
    if "needles" in report["results"]:
        plot(report["results"]["needles"], ROOT / "docs" / f"{NAME}.svg")


if __name__ == "__main__":
    main()
