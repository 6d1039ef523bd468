"""The command ``hornbeam``: what it has below it."""

from __future__ import annotations

from typing import Annotated

import typer

from hornbeam.cli.attend import attend
from hornbeam.cli.chat import chat
from hornbeam.cli.corpus import corpus
from hornbeam.cli.facts import bench, info
from hornbeam.cli.generate import generate
from hornbeam.cli.keep import keep
from hornbeam.cli.narrow_help import Command, Group
from hornbeam.cli.reporting import reported
from hornbeam.cli.search import search
from hornbeam.cli.serve import serve
from hornbeam.cli.train_head import train_head

__all__ = ["app"]

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        with reported(debug=False):
            from hornbeam import __version__

            print(f"hornbeam {__version__}")
        raise typer.Exit


@app.callback()
def hornbeam(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and end."),
    ] = False,
) -> None:
    """Adaptive decoding for PyTorch causal language models."""


for command in (generate, chat, serve, search, corpus, keep, attend, train_head, info):
    app.command(cls=Command)(command)
app.command(
    cls=Command,
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(bench)
