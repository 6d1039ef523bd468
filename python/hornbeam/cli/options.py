"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["Debug", "Device", "Dtype", "Head", "HeadScoresFile", "Json", "Model"]

Model = Annotated[str, typer.Option("--model", "-m", help="smollm2, or a local folder of safetensors.")]

Dtype = Annotated[Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Of the weights.")]

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; a GPU where there is one.")]

Head = Annotated[
    Path | None, typer.Option(help="A folder of `hornbeam train-head`: its feature head drafts.")
]

HeadScoresFile = Annotated[
    Path | None, typer.Option(help="For sparse_mm: safetensors that HeadScores.save wrote.")
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from.")]
