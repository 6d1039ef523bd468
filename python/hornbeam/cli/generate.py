"""``hornbeam generate``: the continuation of a prompt, and plain transformers beside it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hornbeam.bench.compare import Clock, compare, plain_generate
from hornbeam.cli import choices, inputs, opening
from hornbeam.cli.options import Debug, Device, Dtype, Head, HeadScoresFile, Json, Model
from hornbeam.cli.reporting import reported
from hornbeam.cli.screen import Screen
from hornbeam.errors import ArgumentError
from hornbeam.model import loading

if TYPE_CHECKING:
    from hornbeam.warp import Warp

__all__ = ["generate"]

WARM_UP_TOKENS = 8
SEEDS = 1 << 64


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to say to the model; stdin if left out.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Text that follows the prompt; - is stdin.")
    ] = None,
    model: Model = "smollm2",
    system: Annotated[str | None, typer.Option(help="The system message of the chat.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is: no chat template.")] = False,
    draft: Annotated[
        Literal["auto", "suffix", "head", "recycling", "none"],
        typer.Option(help="Where guesses come from; the text is the same. auto: each source where it pays."),
    ] = "auto",
    corpus: Annotated[
        Path | None, typer.Option(help="A file of `hornbeam corpus` to draw guesses from as well.")
    ] = None,
    head: Head = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write a page that shows every step and its draft tree.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", min=0, help="At most so many tokens are added.")
    ] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the fewest tokens of so much probability.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Draw from tokens so likely beside the likeliest.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Divides logits of tokens seen before; 1 is none.")
    ] = None,
    frequency_penalty: Annotated[
        float | None, typer.Option(help="Taken off logits for each time a token was added.")
    ] = None,
    presence_penalty: Annotated[
        float | None, typer.Option(help="Taken off logits of tokens that were added.")
    ] = None,
    seed: Annotated[int, typer.Option(help="One seed, one text.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be repeated.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="Let a part of the KV cache go, by a recipe of hornbeam.recipes.keep."),
    ] = None,
    keep_budget: Annotated[
        str | None, typer.Option(help='What it keeps: tokens a head, a ratio ("25%"), or bytes ("64MB").')
    ] = None,
    head_scores: HeadScoresFile = None,
    attend: Annotated[
        str | None,
        typer.Option(help="Read a part of the KV cache, by a recipe such as quest."),
    ] = None,
    attend_amount: Annotated[
        str | None,
        typer.Option(help='What it reads: pages, a share ("12%"); tokens (window), blocks (inf_llm).'),
    ] = None,
    dtype: Dtype = "auto",
    device: Device = None,
    compared: Annotated[
        bool, typer.Option("--compare", help="Run plain transformers beside it and print both speeds.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Continue a prompt.

    The prompt goes through the model's chat template where it has one, unless
    --raw. Tokens that came from an accepted draft are coloured on a terminal.
    """
    with reported(debug):
        from hornbeam.warp import Warp

        warp = Warp(
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty=repetition_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
        )
        if not 0 <= seed < SEEDS:
            raise ArgumentError(f"seed is {seed}, expected 0 to {SEEDS - 1}")
        for value in stop or []:
            inputs.require_text(value, "--stop")
            if not value:
                raise ArgumentError("--stop is an empty text, expected at least one character")
        if system is not None:
            inputs.require_text(system, "--system")
            if raw:
                raise ArgumentError("--system is a part of the chat template, which --raw leaves out")
        choices.check_draft(draft, corpus, head)
        if keep is not None:
            choices.check_recipe(keep, "--keep", head_scores)
        elif keep_budget is not None or head_scores is not None:
            unused = "--head-scores" if keep_budget is None else "--keep-budget"
            raise ArgumentError(f"{unused} goes with --keep, which is not given")
        choices.check_attend(attend, attend_amount)
        if compared:
            others = {"--stop": stop, "--keep": keep, "--attend": attend}
            _require_comparable(warp, max_new_tokens, others)
        text = inputs.prompt_text(prompt, file)
        loading.check(model)
        recording = choices.trace(trace)

        screen = Screen(quiet=as_json)
        with screen.waiting("starting"):
            source = choices.draft(draft, corpus, head)
            recipe = None if keep is None else choices.recipe(keep, keep_budget, head_scores)
            reads = None if attend is None else choices.attend_recipe(attend, attend_amount)
            place = choices.device_of(device)
        path = opening.prepared(model, screen)
        tokenizer = opening.open_tokenizer(model, path, screen)
        with loading.quiet(), screen.waiting("reading the prompt"):
            prompt_ids = inputs.token_ids(tokenizer, text, system, raw)
        lm = opening.open_lm(model, path, tokenizer, dtype, place, screen)
        options = {
            "draft": source,
            "keep": recipe,
            "attend": reads,
            "seed": seed,
            "stop": stop or None,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "frequency_penalty": frequency_penalty,
            "presence_penalty": presence_penalty,
        }
        fields = None
        if compared:
            room = lm.max_positions - len(prompt_ids) + 1
            if max_new_tokens > room:
                raise ArgumentError(
                    f"--max-new-tokens is {max_new_tokens}, expected at most {room} with --compare: the "
                    f"prompt has {len(prompt_ids)} tokens, and the model's context {lm.max_positions}"
                )
            fields = _fields(lm, options)
        if compared:
            if source is not None:
                with screen.waiting("measuring what a pass costs"):
                    lm.calibrate()
            # Both sides start warm, on a prompt that shares nothing with the real one.
            with screen.waiting("warming up"):
                lm.generate(prompt_ids[-2:], max_new_tokens=WARM_UP_TOKENS, **options)
                plain_generate(lm.model, prompt_ids[-2:], WARM_UP_TOKENS, fields)
                lm.clear_cache()

        with screen.answering(len(prompt_ids), shows_text=not as_json) as show:
            clock = Clock(show)
            out = lm.generate(
                prompt_ids, max_new_tokens=max_new_tokens, stream=clock, trace=recording, **options
            )
            timing = clock.stop(len(out.token_ids))
        if trace is not None and recording is not None:
            recording.save(trace)
        comparison = None
        if not as_json:
            screen.end_text()
            screen.summary(timing, out.stats)
        interrupted = out.finish_reason == "interrupted"
        if compared and not interrupted:
            with screen.waiting("running plain transformers"):
                comparison = compare(lm.model, prompt_ids, out.token_ids, timing, max_new_tokens, fields)
            screen.comparison(comparison)
        if as_json:
            report: dict[str, Any] = {
                "model": model,
                "prompt_tokens": len(prompt_ids),
                "text": out.text,
                "token_ids": list(out.token_ids),
                "finish_reason": out.finish_reason,
                "timing": timing.to_dict(),
                "stats": asdict(out.stats),
            }
            if comparison is not None:
                report["compare"] = comparison.to_dict()
            print(json.dumps(report, ensure_ascii=False))
        if interrupted:
            raise typer.Exit(130)


def _require_comparable(warp: Warp, max_new_tokens: int, others: dict[str, Any]) -> None:
    """Refuses what plain transformers has not, or has otherwise."""
    given = {
        "--temperature": not warp.is_greedy,
        "--frequency-penalty": warp.frequency_penalty,
        "--presence-penalty": warp.presence_penalty,
        **others,
    }
    if unlike := [name for name, value in given.items() if value]:
        raise ArgumentError(
            "--compare is for greedy text over the whole cache, as plain transformers gives it: leave out "
            + ", ".join(unlike)
        )
    if max_new_tokens == 0:
        raise ArgumentError("--max-new-tokens is 0, expected at least 1 with --compare")


def _fields(lm: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The generation config under which plain transformers is asked for the same text."""
    from hornbeam.prompt import end_tokens

    fields = {**lm.engine.checkpoint.text_fields(), "eos_token_id": sorted(end_tokens(lm.model)) or None}
    if options["repetition_penalty"] is not None:
        fields["repetition_penalty"] = options["repetition_penalty"]
    return fields
