"""Runs one bench, or all of them, and writes what it measured.

    python benches/run.py NAME [--quick] [--json FILE] [--only ROW ...]

NAME is that of a file ``bench_<NAME>.py`` with a function ``run(quick: bool) -> dict``; ``all`` runs
every one. ``--quick`` is for a look, not for a result: it is written only where ``--json`` says.
``--only`` with ``--json`` and a file that is there replaces these rows of it; the report says by row when
and with what each was measured.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import harness


def main() -> None:
    names = sorted(file.stem.removeprefix("bench_") for file in Path(__file__).parent.glob("bench_*.py"))
    parser = argparse.ArgumentParser(description="Run a bench.")
    parser.add_argument("name", choices=[*names, "all"])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs; nothing is kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows to run, where the bench has rows")
    arguments = parser.parse_args()
    if arguments.json and arguments.name == "all":
        parser.error("--json takes the result of one bench, not of all")

    for name in names if arguments.name == "all" else [arguments.name]:
        results = measure(name, arguments.quick, arguments.only)
        options = [
            *(["--quick"] if arguments.quick else []),
            *(["--only", *arguments.only] if arguments.only else []),
        ]
        command = " ".join(["python", "benches/run.py", name, *options])
        if arguments.json or not (arguments.quick or arguments.only):
            file = harness.write(name, results, command, arguments.json, rows=arguments.only)
            print("written to", file)
        else:
            print(json.dumps(harness.plain(results), indent=2))


def measure(name: str, quick: bool, only: list[str] | None) -> dict[str, Any]:
    """The results of one bench."""
    print(f"== {name}", flush=True)
    run = importlib.import_module(f"bench_{name}").run
    options: dict[str, Any] = {"quick": quick}
    if only is not None:
        if "only" not in inspect.signature(run).parameters:
            raise SystemExit(f"bench {name} has no rows to choose from")
        options["only"] = only
    results: dict[str, Any] = run(**options)
    return results


if __name__ == "__main__":
    main()
