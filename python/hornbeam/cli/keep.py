"""``hornbeam keep``: what a recipe keeps of a text, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hornbeam.cli import choices, inputs
from hornbeam.cli.opening import open_lm, open_tokenizer, prepared
from hornbeam.cli.options import Debug, Device, Dtype, HeadScoresFile, Model
from hornbeam.cli.reporting import reported
from hornbeam.cli.screen import Screen
from hornbeam.errors import ArgumentError
from hornbeam.model import loading

__all__ = ["keep"]


def keep(
    text: Annotated[Path, typer.Option("--text", "-t", help="The text; - is stdin.")],
    html: Annotated[Path, typer.Option("--html", help="Where to write the page.")],
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help=f"{', '.join(choices.RECIPES)}: see hornbeam.recipes.keep.")
    ] = "snap_kv",
    budget: Annotated[
        str, typer.Option("--budget", "-b", help='Tokens a head, a ratio ("10%"), or bytes ("64MB").')
    ] = "10%",
    head_scores: HeadScoresFile = None,
    model: Model = "smollm2",
    dtype: Dtype = "auto",
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Show what each layer and head keeps of a text, as a heat map over it.

    The text must fit into the model's context.
    """
    with reported(debug):
        choices.check_recipe(recipe, "--recipe", head_scores)
        words = inputs.text_of(text)
        if not words.strip():
            raise ArgumentError("the text is empty, expected some")
        loading.check(model)
        choices.check_writable(html)
        screen = Screen()
        with screen.waiting("starting"):
            method = choices.recipe(recipe, budget, head_scores)
            place = choices.device_of(device)
            from hornbeam.cli.keep_page import kept_by, page
            from hornbeam.text import pieces_of
        path = prepared(model, screen)
        tokenizer = open_tokenizer(model, path, screen)
        with loading.quiet(), screen.waiting("reading the text"):
            token_ids = list(tokenizer(words)["input_ids"])
        lm = open_lm(model, path, tokenizer, dtype, place, screen)
        if len(token_ids) > lm.max_positions:
            raise ArgumentError(
                f"the text has {len(token_ids):,} tokens, expected at most the {lm.max_positions:,} of the "
                "model's context"
            )
        with screen.waiting(f"computing {len(token_ids):,} tokens"):
            kept = kept_by(lm, token_ids, method)
        settings = {"model": model, "recipe": recipe, "budget": budget}
        pieces = pieces_of(lm.tokenizer, token_ids)
        name = "standard input" if str(text) == "-" else text.name
        html.write_text(page(kept, pieces, settings, name), encoding="utf-8")
        print(f"written to {html}")
