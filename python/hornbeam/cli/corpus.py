"""``hornbeam corpus``: an index of texts to draft from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hornbeam.cli.choices import check_writable
from hornbeam.cli.opening import open_tokenizer, prepared
from hornbeam.cli.options import Debug
from hornbeam.cli.reporting import reported
from hornbeam.cli.screen import Screen
from hornbeam.errors import ArgumentError
from hornbeam.model import loading

__all__ = ["corpus"]

# So many of the files that were left out are named.
NAMED = 3


def corpus(
    paths: Annotated[list[Path], typer.Argument(help="Text files, and folders of text files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Whose tokenizer: smollm2, or a local folder.")
    ] = "smollm2",
    debug: Debug = False,
) -> None:
    """Index texts to draft from, for `generate --corpus`.

    Of a folder, what is hidden and what is no text in UTF-8 is skipped.
    """
    with reported(debug):
        for path in paths:
            if not path.exists():
                raise ArgumentError(f"{path} is missing, expected a text file or a folder")
        loading.check(model)
        check_writable(out)
        screen = Screen()
        with screen.waiting("starting"):
            from hornbeam import speculation
        tokenizer = open_tokenizer(model, prepared(model, screen), screen)
        skipped: list[Path] = []
        with loading.quiet(), screen.waiting("indexing"):
            index = speculation.index_files(paths, tokenizer, skipped=skipped.append)
            speculation.save_corpus(index, out)
        if skipped:
            named = ", ".join(map(str, skipped[:NAMED])) + (", ..." if len(skipped) > NAMED else "")
            screen.note(f"skipped {len(skipped)} that are hidden or no text: {named}")
        print(
            f"{index.num_documents} documents, {index.num_tokens - index.num_documents} tokens, "
            f"{index.num_bytes / 1e6:.1f} MB in {out}"
        )
