"""``hornbeam train-head``: a feature head and an acceptance head for a model of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hornbeam.cli.opening import open_lm, open_tokenizer, prepared
from hornbeam.cli.options import Debug, Dtype
from hornbeam.cli.reporting import reported
from hornbeam.cli.screen import Screen
from hornbeam.errors import ArgumentError
from hornbeam.model import loading

__all__ = ["train_head"]


def train_head(
    model: Annotated[str, typer.Argument(help="smollm2, or a local folder of safetensors.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write, or to go on in.")],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            "--text",
            "-t",
            help="Prompts that the model answers, one a line: a file, or a folder of files; may be repeated.",
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Of the whole training, breaks left out; 60 by default.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Gradient steps in place of minutes: one seed, one head.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn at random.")] = 0,
    prompts: Annotated[int, typer.Option(min=2, help="Prompts that the model answers, at most.")] = 576,
    batch: Annotated[int, typer.Option(min=1, help="Prompts that it answers together.")] = 64,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer, at most.")] = 224,
    vocabulary: Annotated[
        int | None, typer.Option(min=1, help="Tokens that the head can guess; 6144 by default.")
    ] = None,
    inner: Annotated[
        int | None, typer.Option(min=1, help="Width of its feed-forward layer; the model's by default.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Begin with this feature head of the model: a file, or such a folder.")
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, help="Steps between two measurements, after which all is kept.")
    ] = 20,
    dtype: Dtype = "auto",
    debug: Debug = False,
) -> None:
    """Train a head that guesses from a model's hidden states.

    The model answers prompts, and the head learns from its hidden states, on
    the CPU. The folder gets the head, an acceptance head for it, and a log. The
    same command goes on where one was stopped, and with more minutes or steps
    where one was over.
    """
    with reported(debug):
        for path in text or []:
            if not path.exists():
                raise ArgumentError(f"{path} is missing, expected a text file or a folder")
        loading.check(model)
        screen = Screen()
        with screen.waiting("starting"):
            from hornbeam import training
            from hornbeam.training.folder import HeadFolder

            settings = training.HeadTraining(
                minutes=minutes,
                steps=steps,
                seed=seed,
                prompts=prompts,
                batch=batch,
                tokens=answer_tokens,
                vocabulary=vocabulary,
                inner=inner,
                every=every,
            )
            HeadFolder(out).check()
            skipped: list[Path] = []
            given = None if text is None else training.read_prompts(text, skipped.append)
        if skipped:
            screen.plain(f"{len(skipped)} files are left out that are hidden or no text")
        if given is not None:
            screen.plain(f"{min(len(given), prompts):,} of {len(given):,} prompts are answered")
        path = prepared(model, screen)
        tokenizer = open_tokenizer(model, path, screen)
        # What was measured of kernels would decide the last bits of hidden states, and so the head.
        lm = open_lm(model, path, tokenizer, dtype, "cpu", screen, profile="off")
        try:
            with loading.quiet(), screen.waiting("training") as change:
                done = training.train_head(
                    lm,
                    out,
                    settings,
                    prompts=given,
                    start=start,
                    name=model,
                    note=screen.under_way,
                    show=change,
                )
        except KeyboardInterrupt:
            screen.plain(f"stopped; the same command goes on in {out}")
            raise
        first = done.report["held_out"][0]
        screen.plain(
            f"held-out texts: the first guess is the model's best token in {first['greedy']:.1%} of the "
            f"places, and survives a ratio test with probability {first['overlap']:.2f}"
        )
        screen.plain(f"hornbeam generate --model {model} --draft head --head {out}")
        print(done.feature_head)
        print(done.acceptance_head)
