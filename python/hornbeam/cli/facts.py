"""``hornbeam info`` and ``hornbeam bench``: what this installation can do, and how fast."""

from __future__ import annotations

import json

import typer

from hornbeam.cli.options import Debug, Json
from hornbeam.cli.reporting import reported
from hornbeam.cli.screen import Screen

__all__ = ["bench", "info"]


def bench(context: typer.Context) -> None:
    """Measure this installation beside its peers; bench --help lists what there is."""
    from hornbeam.bench.run import main

    main(context.args or ["--help"], program="hornbeam bench")


def info(as_json: Json = False, debug: Debug = False) -> None:
    """Show what this build can do on this machine."""
    with reported(debug):
        with Screen(quiet=as_json).waiting("looking"):
            from hornbeam.build import build_info, environment

            facts = {**build_info(), **environment()}
        if as_json:
            print(json.dumps(facts))
            return
        width = max(map(len, facts))
        for name, value in facts.items():
            shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            print(f"{name.replace('_', ' '):<{width}}  {'none' if shown in (None, '') else shown}")
