"""``hornbeam info`` and ``hornbeam bench``: what this installation can do, and how fast."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hornbeam.cli.measured import measured
from hornbeam.cli.options import Debug, Dtype, Json
from hornbeam.cli.reporting import reported
from hornbeam.cli.screen import Screen
from hornbeam.errors import ArgumentError

__all__ = ["bench", "info"]


def bench(context: typer.Context) -> None:
    """Measure this installation beside its peers; bench --help lists what there is."""
    from hornbeam.bench.run import main

    main(context.args or ["--help"], program="hornbeam bench")


def info(
    as_json: Json = False,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Compare the kernels for a model here, and show what came out."),
    ] = False,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="With --measure: smollm2, or a local folder.")
    ] = None,
    dtype: Dtype = "auto",
    debug: Debug = False,
) -> None:
    """Show what this build can do on this machine.

    With --measure: which kernel is the fastest for each operation of a model, and what a pass takes. It is
    kept for later runs, in place of what was measured before.
    """
    with reported(debug):
        if measure:
            measured(model or "smollm2", dtype, Screen(quiet=as_json), as_json=as_json)
            return
        for name, is_given in (("--model", model is not None), ("--dtype", dtype != "auto")):
            if is_given:
                raise ArgumentError(f"{name} is given without --measure")
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
