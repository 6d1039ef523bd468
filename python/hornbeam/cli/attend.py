"""``hornbeam attend``: what a recipe of sparse attention reads of a text, as a table and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hornbeam.cli import choices, inputs
from hornbeam.cli.attend_choices import STUDIED, arguments_of, check_studied, numbers_of, studied_recipe
from hornbeam.cli.opening import open_lm, open_tokenizer, prepared
from hornbeam.cli.options import Debug, Device, Dtype, Model
from hornbeam.cli.reporting import reported
from hornbeam.cli.screen import Screen
from hornbeam.errors import ArgumentError
from hornbeam.model import loading

__all__ = ["attend"]


def attend(
    text: Annotated[Path, typer.Option("--text", "-t", help="The text; - is stdin.")],
    recipe: Annotated[
        str,
        typer.Option("--recipe", "-r", help=f"{', '.join(STUDIED)}: see hornbeam.recipes."),
    ] = "flex_prefill",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="An argument of the recipe: pages=12%, gamma=0.95. Repeatable."),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Where to write a page with maps.")] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", "-l", help="Such as 0,3-5; all by default.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "-n", help="The first so many tokens of the text.")
    ] = 2048,
    model: Model = "smollm2",
    dtype: Dtype = "auto",
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Show what each head reads of a text, and what it misses.

    The text is read densely. read: of all pairs of a row and a key before it, those that are read.
    covered: the attention probability on them. top-k: of a row's heaviest keys, as many as it reads,
    those that are among them.
    """
    with reported(debug):
        check_studied(recipe)
        arguments = arguments_of(settings or [], "--set")
        chosen = numbers_of(layers, "--layers")
        if max_tokens < 1:
            raise ArgumentError(f"--max-tokens is {max_tokens}, expected at least 1")
        words = inputs.text_of(text)
        if not words.strip():
            raise ArgumentError("the text is empty, expected some")
        loading.check(model)
        if html is not None:
            choices.check_writable(html)
        screen = Screen()
        with screen.waiting("starting"):
            method = studied_recipe(recipe, arguments)
            place = choices.device_of(device)
            from hornbeam.cli.attend_page import page, studied, table
            from hornbeam.text import pieces_of
        path = prepared(model, screen)
        tokenizer = open_tokenizer(model, path, screen)
        with loading.quiet(), screen.waiting("reading the text"):
            token_ids = list(tokenizer(words)["input_ids"])
        lm = open_lm(model, path, tokenizer, dtype, place, screen)
        count = min(max_tokens, lm.max_positions)
        if len(token_ids) > count:
            screen.note(f"of {len(token_ids):,} tokens the first {count:,} are read")
            token_ids = token_ids[:count]
        with screen.waiting(f"computing {len(token_ids):,} tokens") as change:
            study = studied(lm, token_ids, method, chosen, lambda layer: change(f"layer {layer} is measured"))
        print("\n".join(table(study)))
        if html is not None:
            shown = {"model": model, "recipe": recipe, **{k: str(v) for k, v in arguments.items()}}
            name = "standard input" if str(text) == "-" else text.name
            html.write_text(page(study, pieces_of(lm.tokenizer, token_ids), shown, name), encoding="utf-8")
            print(f"written to {html}")
