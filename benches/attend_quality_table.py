"""Renders the tables and the plot of docs/attend.md from the results of attend_quality and keep_quality.

    python benches/attend_quality_table.py [RESULT]

Everything between the markers ``<!-- attend_quality -->`` and ``<!-- /attend_quality -->`` is replaced, and
docs/attend_quality.svg is drawn anew. RESULT is by default the one file ``results/attend_quality-*.json``;
what keep finds on the same needles and windows is taken from the one file ``results/keep_quality-*.json``.
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
NAME = "attend_quality"
#: Of keep's recipes those that are named on the plot; the others are dots.
NAMED = ("sparse_mm", "window_kv", "streaming_llm", "snap_kv", "h2o")


def render(report: dict[str, Any], keep: dict[str, Any]) -> str:
    """Markdown of all that the results hold."""
    results, machine = report["results"], report["machine"]
    parts = [
        f"`{report['command']}`, the default model in float32; hornbeam {machine['revision']}, torch "
        f"{machine['torch']}, {machine['processor']}. What is in brackets are intervals of 95 %."
    ]
    if "perplexity" in results:
        parts += perplexity(results["perplexity"])
    if "needles" in results:
        parts += needles(results["needles"], keep["needles"])
    if "windows" in results:
        parts += windows(results["windows"], keep["perplexity"])
    if {"needles", "windows"} <= set(results):
        parts += ["", f"![Needles found and perplexity by the bytes that are read]({NAME}.svg)"]
    return "\n".join(parts)


def perplexity(found: dict[str, Any]) -> list[str]:
    first, last = found["positions"]
    texts = found["texts"]
    lines = [
        "",
        f"**Perplexity** at positions {first:,} to {last:,} of {len(texts)} text{'s' * (len(texts) > 1)}, "
        f"{found['tokens_scored']:,} tokens, each given its true prefix; `quest` decodes them "
        f"{found['rows_a_step']} rows a step.",
        "",
        f"| reads | keys read | perplexity | over dense | {' | '.join(f'`{text}`' for text in texts)} |",
        f"| --- | --- | --- | --- |{' --- |' * len(texts)}",
    ]
    for name, row in found["methods"].items():
        over = "" if name == "dense" else times(row)
        by_text = " | ".join(
            f"{row['by_text'][text]:.3f}" if text in row["by_text"] else "" for text in texts
        )
        lines.append(
            f"| {name} | {100 * row['keys_read']:.3g} % | {row['perplexity']:.3f} | {over} | {by_text} |"
        )
    return lines


def times(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['ratio']:.4f} [{low:.4f}, {high:.4f}]"


def needles(found: dict[str, Any], keep: dict[str, Any]) -> list[str]:
    lines = [
        "",
        f"**Needles**: {found['needles']} of them in {found['contexts']} contexts of up to 4,096 tokens; "
        f"reading everything finds {found['full']:.1f} %. Bytes are those that the row before an answer "
        "reads, bounds of pages and dense layers included, over all.",
        "",
        "| reads | bytes read | found | points from all |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in found["recipes"].items():
        low, high = row["interval"]
        change = f"{row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
        lines.append(f"| {name} | {100 * row['bytes']:.0f} % | {row['found']:.1f} % | {change} |")
    for share in ("0.5", "0.25", "0.12"):
        name, best = max(keep["recipes"].items(), key=lambda item: item[1][share]["ours"])
        ours, kept = best[share]["ours"], 100 * float(share)
        change = f"{ours - keep['full_cache']['ours']:+.1f}"
        lines.append(f"| the best of keep, `{name}` | {kept:.0f} % | {ours:.1f} % | {change} |")
    return lines


def windows(found: dict[str, Any], keep: dict[str, Any]) -> list[str]:
    lines = [
        "",
        f"**Windows** of keep_quality: {found['windows']} of {found['context_tokens']:,} tokens and the next "
        f"ones scored, {found['tokens_scored']:,} in all; reading everything has a perplexity of "
        f"{found['full']:.3f}.",
        "",
        "| reads | bytes read | perplexity | over all |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in found["recipes"].items():
        lines.append(f"| {name} | {100 * row['bytes']:.0f} % | {row['perplexity']:.3f} | {times(row)} |")
    name, best = min(keep["recipes"].items(), key=lambda item: item[1]["ours"])
    ratio = best["ours"] / keep["full_cache"]["ours"]
    lines.append(
        f"| the best of keep, `{name}` | {100 * keep['keep']:.0f} % | {best['ours']:.3f} | {ratio:.4f} |"
    )
    return lines


def plot(results: dict[str, Any], keep: dict[str, Any], target: Path) -> None:
    """Needles and perplexity by the bytes that are read: merely not read, and forgotten."""
    matplotlib.rcParams.update({"svg.hashsalt": NAME, "font.size": 8})
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.6))
    own = results["needles"]
    left.axhline(own["full"], color="0.6", linestyle=":", label="all keys")
    for label, colour, names in series(own):
        rows = [own["recipes"][name] for name in names]
        left.plot(
            [100 * r["bytes"] for r in rows], [r["found"] for r in rows], "o-", color=colour, label=label
        )
    shares = [key for key in keep["needles"]["recipes"]["snap_kv"] if key != "press"]
    for name, row in keep["needles"]["recipes"].items():
        style = {"color": "C1", "linewidth": 0.8} if name in NAMED else {"color": "0.8", "linewidth": 0.6}
        values = [row[share]["ours"] for share in shares]
        left.plot([100 * float(share) for share in shares], values, ".-", zorder=1, **style)
        if name in NAMED[:3]:
            left.annotate(f" {name}", (50, values[0]), fontsize=6, color="C1", va="center")
    left.set_ylabel("needles found (%)")
    own = results["windows"]
    right.axhline(own["full"], color="0.6", linestyle=":")
    for _, colour, names in series(own):
        rows = [own["recipes"][name] for name in names]
        right.plot([100 * r["bytes"] for r in rows], [r["perplexity"] for r in rows], "o-", color=colour)
    share = 100 * keep["perplexity"]["keep"]
    for name, row in keep["perplexity"]["recipes"].items():
        right.plot(share, row["ours"], ".", color="C1" if name in NAMED else "0.8", zorder=1)
    right.plot([], [], ".", color="C1", label="keep: " + ", ".join(NAMED))
    right.plot([], [], ".", color="0.8", label="keep: the others")
    right.set_ylabel("perplexity")
    right.set_ylim(top=own["full"] * 1.3)
    for panel in (left, right):
        panel.set_xlabel("bytes of keys and values read, over all (%)")
        panel.set_xlim(0, 65)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=6)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def series(found: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Label, colour and rows of a line each."""
    paper = [name for name in found["recipes"] if "paper" in name]
    rest = [name for name in found["recipes"] if name not in paper]
    return [("quest", "C0", rest), ("quest, as in its paper", "C2", paper)]


def replaced(text: str, content: str) -> str:
    """``text`` with ``content`` between the markers."""
    begin, end = f"<!-- {NAME} -->", f"<!-- /{NAME} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"docs/attend.md has no {begin} ... {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def the_one(name: str) -> Path:
    """The result file of a bench.

    Raises:
        SystemExit: there are several, or none.
    """
    files = sorted(RESULTS.glob(f"{name}-*.json"))
    if len(files) != 1:
        raise SystemExit(f"{len(files)} results of {name}, expected one")
    return files[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="?")
    file = parser.parse_args().results or the_one(NAME)
    report = json.loads(file.read_text(encoding="utf-8"))
    keep = json.loads(the_one("keep_quality").read_text(encoding="utf-8"))["results"]
    page = ROOT / "docs" / "attend.md"
    page.write_text(replaced(page.read_text(encoding="utf-8"), render(report, keep)), encoding="utf-8")
    if {"needles", "windows"} <= set(report["results"]):
        plot(report["results"], keep, ROOT / "docs" / f"{NAME}.svg")


if __name__ == "__main__":
    main()
