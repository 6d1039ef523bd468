"""The commands and their options."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hornbeam.bench.compare import Clock, compare, plain_generate
from hornbeam.cli.screen import Screen
from hornbeam.errors import ArgumentError, HornbeamError

__all__ = ["app"]

app = typer.Typer(
    help="Adaptive decoding for PyTorch causal language loading.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

WARM_UP_TOKENS = 8

Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from.")]


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to say to the model; stdin if left out.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Text that follows the prompt; - is stdin.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="smollm2, or a local folder of safetensors.")
    ] = "smollm2",
    system: Annotated[str | None, typer.Option(help="The system message of the chat.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is: no chat template.")] = False,
    draft: Annotated[
        Literal["auto", "suffix", "head", "recycling", "none"],
        typer.Option(help="Where guesses come from; the text is the same. auto: each source where it pays."),
    ] = "auto",
    corpus: Annotated[
        Path | None, typer.Option(help="A file of `hornbeam corpus` to draw guesses from as well.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write a page that shows every step and its draft tree.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=0)] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int | None, typer.Option()] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    min_p: Annotated[float | None, typer.Option()] = None,
    seed: Annotated[int, typer.Option(help="One seed, one text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Of the weights.")
    ] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; a GPU where there is one.")] = None,
    compared: Annotated[
        bool, typer.Option("--compare", help="Run plain transformers beside it and print both speeds.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    debug: Debug = False,
) -> None:
    """Continue a prompt.

    The prompt goes through the model's chat template where it has one, unless --raw. Tokens that
    came from an accepted draft are coloured on a terminal.
    """
    with _reported(debug):
        if compared and (temperature != 0 or stop):
            raise ArgumentError("--compare is for greedy text: leave out --temperature and --stop")
        text = _prompt_text(prompt, file)
        screen = Screen(quiet=as_json)
        source = _draft(draft, corpus)
        recording = _trace(trace)
        lm = _open(model, dtype, device, screen)
        prompt_ids = _token_ids(lm.tokenizer, text, system, raw)
        if compared:
            # Both sides start warm, on a prompt that shares nothing with the real one.
            with screen.waiting("warming up"):
                lm.generate(prompt_ids[-2:], max_new_tokens=WARM_UP_TOKENS, draft=source)
                plain_generate(lm.model, prompt_ids[-2:], WARM_UP_TOKENS)
                lm.clear_cache()

        clock = Clock(None if as_json else screen.token_text)
        out = lm.generate(
            prompt_ids,
            max_new_tokens=max_new_tokens,
            draft=source,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            stop=stop or None,
            stream=clock,
            trace=recording,
        )
        if trace is not None and recording is not None:
            recording.save(trace)
        timing = clock.stop(len(out.token_ids))
        comparison = None
        if not as_json:
            screen.end_text()
            screen.summary(timing, out.stats)
        interrupted = out.finish_reason == "interrupted"
        if compared and not interrupted:
            with screen.waiting("running plain transformers"):
                comparison = compare(lm.model, prompt_ids, out.token_ids, timing, max_new_tokens)
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


@app.command()
def corpus(
    paths: Annotated[list[Path], typer.Argument(help="Text files, and folders of text files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Whose tokenizer: smollm2, or a local folder.")
    ] = "smollm2",
    debug: Debug = False,
) -> None:
    """Index texts to draft from, for `generate --corpus`."""
    from hornbeam import speculation
    from hornbeam.model import loading

    with _reported(debug):
        screen = Screen()
        with screen.preparing(model) as progress:
            folder = loading.resolve(model, progress=progress)
        tokenizer = loading.load_tokenizer(folder)
        with screen.waiting("indexing"):
            index = speculation.index_files(paths, tokenizer)
            speculation.save_corpus(index, out)
        print(
            f"{index.num_documents} documents, {index.num_tokens - index.num_documents} tokens, "
            f"{index.num_bytes / 1e6:.1f} MB in {out}"
        )


@app.command()
def keep(
    text: Annotated[Path, typer.Option("--text", "-t", help="The text; - is stdin.")],
    html: Annotated[Path, typer.Option("--html", help="Where to write the page.")],
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="Of hornbeam.recipes.keep.")] = "snap_kv",
    budget: Annotated[
        str, typer.Option("--budget", "-b", help='Tokens a head, a ratio ("10%"), or bytes ("64MB").')
    ] = "10%",
    head_scores: Annotated[
        Path | None, typer.Option(help="For sparse_mm: safetensors that HeadScores.save wrote.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="smollm2, or a local folder of safetensors.")
    ] = "smollm2",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Of the weights.")
    ] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; a GPU where there is one.")] = None,
    debug: Debug = False,
) -> None:
    """Show what each layer and head keeps of a text, as a heat map over it."""
    with _reported(debug):
        from hornbeam.cli.keep_page import kept_by, page
        from hornbeam.text import pieces_of

        method = _recipe(recipe, budget, head_scores)
        screen = Screen(quiet=False)
        words = _prompt_text(None, text)
        lm = _open(model, dtype, device, screen)
        token_ids = list(lm.tokenizer(words)["input_ids"])
        with screen.waiting(f"reading {len(token_ids):,} tokens"):
            kept = kept_by(lm, token_ids, method)
        settings = {"model": model, "recipe": recipe, "budget": budget}
        name = "standard input" if str(text) == "-" else text.name
        html.write_text(page(kept, pieces_of(lm.tokenizer, token_ids), settings, name), encoding="utf-8")
        print(f"written to {html}")


def _recipe(name: str, budget: str, head_scores: Path | None) -> Any:
    from hornbeam.keep import HeadScores
    from hornbeam.recipes import keep as recipes

    if name not in recipes.__all__:
        raise ArgumentError(f'recipe is "{name}", expected one of: {", ".join(recipes.__all__)}')
    options: dict[str, Any] = {}
    if name == "sparse_mm":
        if head_scores is None:
            raise ArgumentError("sparse_mm needs --head-scores, a file that HeadScores.save wrote")
        options["head_scores"] = HeadScores.load(head_scores).scores
    return getattr(recipes, name)(int(budget) if budget.isdecimal() else budget, **options)


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def bench(context: typer.Context) -> None:
    """Measure this installation beside its peers; bench --help lists what there is."""
    from hornbeam.bench.run import main

    main(context.args or ["--help"], program="hornbeam bench")


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    debug: Debug = False,
) -> None:
    """Show what this build can do on this machine."""
    from hornbeam.build import build_info, environment

    with _reported(debug):
        facts = {**build_info(), **environment()}
        if as_json:
            print(json.dumps(facts))
            return
        width = max(map(len, facts))
        for name, value in facts.items():
            shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            print(f"{name.replace('_', ' '):<{width}}  {'none' if shown in (None, '') else shown}")


@contextmanager
def _reported(debug: bool) -> Iterator[None]:
    """An error becomes one line on stderr and exit code 2; Ctrl-C exit code 130."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # Whoever read the output has seen enough; stdout is replaced so that exit does not flush it.
        sys.stdout = None
        raise typer.Exit(0) from None
    except Exception as error:
        if debug:
            raise
        said = " ".join(str(error).split()) or "no message"
        kind = "" if isinstance(error, (HornbeamError, OSError)) else f"{type(error).__name__}: "
        print(f"hornbeam: {kind}{said}", file=sys.stderr)
        raise typer.Exit(2) from None


def _prompt_text(prompt: str | None, file: Path | None) -> str:
    parts = [] if prompt is None else [prompt]
    if file is not None and str(file) != "-":
        # The newline that ends a file is no part of the text: tokenizers join it with what follows.
        parts.append(file.read_text(encoding="utf-8").removesuffix("\n"))
    elif file is not None or prompt is None:
        parts.append(sys.stdin.read())
    text = "\n\n".join(parts)
    if not text.strip():
        raise ArgumentError("the prompt is empty, expected some text")
    return text


def _open(name: str, dtype: str, device: str | None, screen: Screen) -> Any:
    from hornbeam.model import loading

    with screen.preparing(name) as progress:
        path = loading.resolve(name, progress=progress)
    with screen.waiting(f"loading {name}"):
        import torch

        from hornbeam.lm import LM

        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        weights = dtype if dtype == "auto" else getattr(torch, dtype)
        return LM(*loading.load(path, dtype=weights, device=where))


def _token_ids(tokenizer: Any, text: str, system: str | None, raw: bool) -> list[int]:
    chat = not raw and bool(getattr(tokenizer, "chat_template", None))
    if not chat:
        if system is not None:
            raise ArgumentError("--system needs a chat template: the model has none, or --raw was given")
        return list(tokenizer(text)["input_ids"])
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])


def _draft(name: str, corpus: Path | None) -> Any:
    from hornbeam import speculation

    if corpus is not None and name not in ("auto", "suffix"):
        raise ArgumentError(f"--corpus goes with --draft auto or suffix, got {name}")
    index = None if corpus is None else speculation.open_corpus(corpus)
    sources = {
        "auto": speculation.Auto(corpus=index),
        "suffix": speculation.Suffix(corpus=index),
        "head": speculation.FeatureHead(),
        "recycling": speculation.TokenRecycling(),
        "none": None,
    }
    return sources[name]


def _trace(path: Path | None) -> Any:
    """A recording, if its file can be written: better known before the text than after."""
    if path is None:
        return None
    from hornbeam import Trace

    path.touch()
    return Trace()
