"""``hornbeam search``: several continuations of a prompt, valued step by step, under a budget."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hornbeam.cli import choices, inputs, opening
from hornbeam.cli.named import function_of
from hornbeam.cli.options import Debug, Device, Dtype, Head, Json
from hornbeam.cli.reporting import reported
from hornbeam.cli.screen import Screen
from hornbeam.cli.tasks import TASKS, Task, check_task, task_of
from hornbeam.errors import ArgumentError
from hornbeam.model import loading

__all__ = ["search"]

SEEDS = 1 << 64
DEFAULT_MODEL = "smollm2"
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}


def search(
    prompt: Annotated[
        str | None, typer.Argument(help="A problem of --task, or a text; stdin if left out.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Text that follows the prompt; - is stdin.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(TASKS)}: its own model, prompt, value and check of the answer."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="smollm2, or a local folder; with --task in place of its own."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system message of the chat.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is: no chat template.")] = False,
    recipe: Annotated[
        str,
        typer.Option("--recipe", "-r", help=f"{', '.join(choices.SEARCH_RECIPES)}: see docs/search.md."),
    ] = "rebase",
    width: Annotated[
        int | None, typer.Option("--width", "-w", min=1, help="Children of a round; paths of best_of_n.")
    ] = None,
    children: Annotated[int | None, typer.Option(min=1, help="Continuations of one leaf.")] = None,
    balance: Annotated[float | None, typer.Option(help="How evenly leaves share the width.")] = None,
    temperature: Annotated[float, typer.Option(help="Of the steps; 0 is greedy, all siblings alike.")] = 1.0,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the fewest tokens of so much probability.")
    ] = None,
    value: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Of a list of paths, one number each; else the task's own, or the model's likelihood.",
        ),
    ] = None,
    finish: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="Of a path: true, or its answer, if it is finished."),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(help=r"Ends a step; \n is the newline, the default. Empty: token counts alone."),
    ] = None,
    max_step_tokens: Annotated[
        int | None, typer.Option(min=1, help="At most so many tokens a step; 64 without --task.")
    ] = None,
    max_depth: Annotated[
        int | None, typer.Option(min=1, help="At most so many steps a path; 25 without --task.")
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="Budget: tokens that are written.")] = None,
    forwards: Annotated[int | None, typer.Option(min=0, help="Budget: forward passes.")] = None,
    kv_bytes: Annotated[str | None, typer.Option(help='Budget: pages below the prompt, as "64MB".')] = None,
    verifier_calls: Annotated[int | None, typer.Option(min=0, help="Budget: paths that are valued.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="Budget: time.")] = None,
    select: Annotated[
        Literal["best", "majority", "weighted"],
        typer.Option(help="Of the finished paths: by value, by votes, or by votes weighed by value."),
    ] = "best",
    draft: Annotated[
        Literal["auto", "suffix", "head", "recycling", "none"],
        typer.Option(help="Where guesses come from; the paths are the same."),
    ] = "auto",
    head: Head = None,
    seed: Annotated[int, typer.Option(help="One seed, one search.")] = 0,
    trace: Annotated[
        Path | None, typer.Option(help="Write a page that shows the tree and the budget.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write several continuations step by step, and go on from the good ones.

    On a terminal the tree is drawn as it grows. The text of the chosen path goes
    to standard output; votes, the reason why the search ended and what it spent
    follow on standard error.
    """
    with reported(debug):
        own = {"--width": width, "--children": children, "--balance": balance}
        arguments = choices.check_search_recipe(recipe, own)
        if not 0 <= seed < SEEDS:
            raise ArgumentError(f"seed is {seed}, expected 0 to {SEEDS - 1}")
        choices.check_draft(draft, None, head)
        if task is not None:
            check_task(task)
            why = "a task has a prompt and a finish of its own"
            _refuse({"--system": system, "--raw": raw, "--finish": finish}, why)
            if model is None:
                why = "the model of a task is in float32 on the CPU; --model has another in its place"
                _refuse({"--dtype": dtype != "auto", "--device": device}, why)
        elif system is not None:
            inputs.require_text(system, "--system")
            if raw:
                raise ArgumentError("--system is a part of the chat template, which --raw leaves out")
        if model is not None or task is None:
            loading.check(model or DEFAULT_MODEL)
        text = inputs.prompt_text(prompt, file)
        if trace is not None:
            choices.check_writable(trace)

        screen = Screen(quiet=as_json)
        with screen.waiting("starting"):
            from hornbeam import search as package

            limit = int(kv_bytes) if kv_bytes is not None and kv_bytes.isdecimal() else kv_bytes
            budget = package.Budget(tokens, forwards, limit, seconds, verifier_calls)
            problem = None if task is None else task_of(task, text)
            step = _step(problem, delimiter, max_step_tokens)
            depth = max_depth if max_depth is not None else problem and problem.max_depth
            if depth is not None:
                arguments["max_depth"] = depth
            policy = choices.search_recipe(recipe, {"temperature": temperature, "top_p": top_p} | arguments)
            judge: Any = None if value is None else function_of(value, "--value")
            is_finished = problem and problem.finish
            if finish is not None:
                is_finished = function_of(finish, "--finish")
            source = choices.draft(draft, None, head)
            place = "cpu" if problem is not None and model is None else choices.device_of(device)
        if problem is not None and model is None:
            with loading.quiet(), screen.waiting(f"loading the model of {task}"):
                lm = problem.open_lm()
                judge = problem.open_value() if judge is None else judge
        else:
            name = model or DEFAULT_MODEL
            path = opening.prepared(name, screen)
            lm = opening.open_lm(name, path, opening.open_tokenizer(name, path, screen), dtype, place, screen)
        with loading.quiet(), screen.waiting("reading the prompt"):
            given = text if problem is None else problem.prompt
            prompt_ids = inputs.token_ids(lm.tokenizer, given, system, raw or problem is not None)

        from hornbeam.cli.search_screen import searching

        with searching(screen) as watch:
            result = lm.search(
                prompt_ids,
                recipe=policy,
                value=judge,
                finish=is_finished,
                step=step,
                budget=budget,
                seed=seed,
                draft=source,
                select=getattr(package.select, select),
                watch=watch,
            )
        if trace is not None:
            result.save_page(trace)
        fault = None if problem is None else problem.fault(result.best.text)
        if as_json:
            solved = {} if problem is None else {"task": task, "solved": fault is None, "fault": fault}
            print(json.dumps({**result.to_dict(), **solved}, ensure_ascii=False, allow_nan=False))
        else:
            _say(screen, result, problem, fault)
        if result.stop == "interrupted":
            raise typer.Exit(130)
        if result.error is not None:
            raise result.error


def _say(screen: Screen, result: Any, problem: Task | None, fault: str | None) -> None:
    """The text of the chosen path, and everything about it."""
    from hornbeam.cli.search_screen import ending, ledger_line, vote_lines

    screen.token_text(result.best.text, result.best.token_ids, "plain")
    screen.end_text()
    if problem is not None:
        answer = result.best.answer
        screen.plain(f"not solved: {fault}" if fault is not None else f"solved: {answer or result.best.text}")
    for line in vote_lines(result.answers):
        screen.plain(line)
    screen.plain(f"{ending(result.stop)}; {ledger_line(result.ledger)}")


def _refuse(options: dict[str, Any], why: str) -> None:
    for option, given in options.items():
        if given:
            raise ArgumentError(f"{option} is given with --task: {why}")


def _step(problem: Task | None, delimiter: str | None, max_tokens: int | None) -> Any:
    """Where steps end: as the task has it, or as options say."""
    from hornbeam.search import StepEnd

    step = StepEnd() if problem is None else problem.step
    if delimiter is not None:
        inputs.require_text(delimiter, "--delimiter")
        told = re.sub(r"\\[nt\\]", lambda found: _ESCAPES[found[0]], delimiter)
        step = StepEnd(told or None, step.max_tokens)
    return step if max_tokens is None else StepEnd(step.delimiter, max_tokens)
