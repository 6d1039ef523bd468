"""``hornbeam serve``: the model behind OpenAI's protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from hornbeam.cli import choices, opening
from hornbeam.cli.options import Debug, Device, Dtype, Head, Model
from hornbeam.cli.reporting import reported
from hornbeam.cli.screen import Screen
from hornbeam.errors import ArgumentError
from hornbeam.model import loading

__all__ = ["serve"]

#: Keys that are not to be seen in the list of processes, separated by commas.
KEYS = "HORNBEAM_API_KEYS"


def serve(
    model: Model = "smollm2",
    name: Annotated[
        str | None, typer.Option(help="What requests call the model; the last part of --model.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where it listens; other machines need an address of this one.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any that is free.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help=f"A key that a request needs; may be repeated. Also from {KEYS}."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Answer other machines without a key.")
    ] = False,
    draft: Annotated[
        Literal["auto", "suffix", "head", "recycling", "none"],
        typer.Option(help="Where guesses come from; texts are the same."),
    ] = "auto",
    head: Head = None,
    max_kv: Annotated[
        str | None, typer.Option(help='Bytes of the KV cache, such as "4GB"; a quarter of the memory.')
    ] = None,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 4 << 20,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of an answer; the model's context.")
    ] = None,
    max_sequences: Annotated[
        int, typer.Option(min=1, help="Sequences of a request: its prompts times n.")
    ] = 64,
    max_open: Annotated[
        int, typer.Option(min=1, help="Requests under way; the next is answered with 429.")
    ] = 64,
    max_seconds: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 600.0,
    drain_seconds: Annotated[
        float, typer.Option(help="Seconds that requests have to end when the server stops.")
    ] = 30.0,
    access_log: Annotated[bool, typer.Option("--access-log", help="A line for each request.")] = False,
    batch_invariant: Annotated[
        bool, typer.Option("--batch-invariant", help="A text's bits do not depend on others; slower.")
    ] = False,
    dtype: Dtype = "auto",
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Serve OpenAI's completions and chats, and scores.

    All requests share steps and prefixes. Every field of a request is
    honoured, or refused by its name.
    """
    with reported(debug):
        keys = [*(api_key or []), *filter(None, os.environ.get(KEYS, "").split(","))]
        choices.check_draft(draft, None, head)
        loading.check(model)
        from hornbeam.serve import Limits, create_app, run
        from hornbeam.serve.server import is_loopback

        name = name or Path(model).name
        limits = Limits(max_body, max_tokens, max_sequences, max_open, max_seconds, drain_seconds)
        if not is_loopback(host) and not keys and not insecure:
            raise ArgumentError(
                f"--host is {host}, which other machines reach, expected --api-key, or --insecure to answer "
                "them without one"
            )
        screen = Screen()
        with screen.waiting("starting"):
            place = choices.device_of(device)
            source = choices.draft(draft, None, head)
        path = opening.prepared(model, screen)
        tokenizer = opening.open_tokenizer(model, path, screen)
        given = {"max_kv_bytes": max_kv, "batch_invariant": batch_invariant}
        lm = opening.open_lm(model, path, tokenizer, dtype, place, screen, **given)
        app = create_app(lm, name=name, limits=limits, keys=keys, draft=source)
        run(
            app,
            host=host,
            port=port,
            access_log=access_log,
            ready=lambda url: screen.plain(f"serving {name} at {url}"),
        )
