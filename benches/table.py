"""Renders the README's table from the results of the generation bench.

    python benches/table.py [--check]

Everything between the markers ``<!-- results -->`` and ``<!-- /results -->`` is replaced: one table a
machine, from ``benches/results/generate-*.json``. ``--check`` changes nothing and fails when the README
says something else than the results.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benches" / "results"
BEGIN, END = "<!-- results -->", "<!-- /results -->"

ROWS = {
    "edit": "edit a file (`make demo`)",
    "chat": "free chat, {jobs} prompts one at a time",
    "batch": "free chat, {jobs} prompts in one call",
    "prefill_2048": "first token of a 2,048-token prompt",
    "prefill_7900": "first token of a 7,900-token prompt",
    "decode_7900_f32": "plain decoding after 7,900 tokens",
    "decode_7900_bf16": "the same, keys and values in bfloat16",
}


def render(reports: list[dict[str, Any]]) -> str:
    """Markdown of all reports."""
    return "\n\n".join(map(table, reports))


def table(report: dict[str, Any]) -> str:
    """One report: what it was measured on, and a row a job."""
    machine = report["machine"]
    lines = [
        f"Times as fast as plain `model.generate` of transformers {machine['transformers']}, the same "
        f"model (SmolLM2-135M-Instruct, float32) in the same process: median of alternating runs, in "
        f"brackets an interval of 95 % for it. {machine['processor']}, {machine['threads']} threads, torch "
        f"{machine['torch']}, hornbeam {machine['revision']} unless a row names another revision of this "
        f"repository; `{report['command']}`.",
        "",
        "| job | hornbeam | transformers' prompt lookup | same text |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in report["results"].items():
        lookup = row.get("prompt_lookup")
        revision = report.get("measured", {}).get(name, machine)["revision"]
        cells = [
            ROWS[name].format(jobs=row["jobs"])
            + ("" if revision == machine["revision"] else f", at {revision}"),
            shown(row["hornbeam"]),
            shown(lookup) if lookup else "not available" if name == "batch" else "",
            f"{row['identical']} of {row['jobs']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def replaced(text: str, content: str) -> str:
    """``text`` with ``content`` between the markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"README.md has no {BEGIN} ... {END}")
    middle = f"\n{content}\n" if content else "\n"
    return before + begin + middle + end + after


def main() -> None:
    files = sorted(RESULTS.glob("generate-*.json"))
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    readme: Path = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    wanted = replaced(text, render(reports))
    if "--check" in sys.argv[1:]:
        if wanted != text:
            raise SystemExit("README.md differs from benches/results: run python benches/table.py")
        return
    readme.write_text(wanted, encoding="utf-8")
    print(f"README.md: {len(reports)} tables")


if __name__ == "__main__":
    main()
