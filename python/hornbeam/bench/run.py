"""Runs one bench, or all of them, and writes what it measured."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hornbeam.bench import harness
from hornbeam.errors import HornbeamError, MissingExtra

__all__ = ["described", "main"]


def described() -> dict[str, str]:
    """Every bench, and the first line of its file's docstring; nothing is imported for it."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("bench_*.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        found[file.stem.removeprefix("bench_")] = text.partition("\n")[0]
    return found


def main(words: Sequence[str] | None = None, program: str = "python -m hornbeam.bench") -> None:
    """Runs what ``words`` (the command line) names. Ends the process with 2 if a bench could not be run."""
    benches = described()
    arguments = parse(words, program, benches)
    failures = []
    for name in benches if arguments.name == "all" else [arguments.name]:
        try:
            one(name, arguments)
        except HornbeamError as error:
            failures.append(f"bench {name}: {error}")
            print(f"hornbeam: {failures[-1]}", file=sys.stderr, flush=True)
    if failures:
        raise SystemExit(2)


def parse(words: Sequence[str] | None, program: str, benches: dict[str, str]) -> argparse.Namespace:
    listed = _listed({**benches, "all": "Every one, in this order."})
    parser = argparse.ArgumentParser(
        prog=program,
        description=textwrap.fill(
            "Measure this installation; what came out is written with the machine and the versions.",
            shutil.get_terminal_size().columns - 1,
        ),
        epilog=f"benches:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*benches, "all"], metavar="NAME", help="one of the benches below")
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter runs: for a look, not a result; printed"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help=f"write into this folder (default: {harness.RESULTS})",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write to this file; with --only, replace these rows of it",
    )
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows to run, where the bench has rows")
    arguments = parser.parse_args(words)
    if arguments.json and (arguments.name == "all" or arguments.out):
        parser.error("--json takes the result of one bench, and stands in place of --out")
    return arguments


def _listed(texts: dict[str, str]) -> str:
    """Names and what they are, beside each other where the terminal has room for it."""
    columns, width = shutil.get_terminal_size().columns, max(map(len, texts)) + 4
    is_beside = columns >= width + 40
    lines = []
    for name, text in texts.items():
        if not is_beside:
            lines.append(f"  {name}")
        lines += textwrap.wrap(
            text,
            columns - 1,
            initial_indent=f"  {name:<{width - 2}}" if is_beside else " " * 6,
            subsequent_indent=" " * (width if is_beside else 6),
        )
    return "\n".join(lines)


def one(name: str, arguments: argparse.Namespace) -> None:
    """Measures one bench, and writes the result or prints it."""
    results = measure(name, arguments.quick, arguments.only)
    options = [
        *(["--quick"] if arguments.quick else []),
        *(["--only", *arguments.only] if arguments.only else []),
    ]
    is_kept = arguments.json or arguments.out or not (arguments.quick or arguments.only)
    if "skipped" in results:
        print(f"bench {name} measured nothing: {results['skipped']}")
    elif is_kept:
        command = " ".join(["hornbeam bench", name, *options])
        file = harness.write(name, results, command, arguments.json, arguments.only, arguments.out)
        print("written to", file)
    else:
        print(json.dumps(harness.plain(results), indent=2))


def measure(name: str, quick: bool, only: list[str] | None) -> dict[str, Any]:
    """The results of one bench.

    Raises:
        MissingExtra: a package that it needs is not installed.
    """
    print(f"== {name}", flush=True)
    try:
        run = importlib.import_module(f"hornbeam.bench.bench_{name}").run
        options: dict[str, Any] = {"quick": quick}
        if only is not None:
            if "only" not in inspect.signature(run).parameters:
                raise SystemExit(f"bench {name} has no rows to choose from")
            options["only"] = only
        results: dict[str, Any] = run(**options)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "hornbeam":
            raise
        raise MissingExtra(
            f"the package {package} is not installed: pip install 'hornbeam[bench]' has all that benches need"
        ) from error
    return results
