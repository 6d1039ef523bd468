"""What options choose: a draft, a recipe, a device. All of it is checked before a model is loaded."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

from hornbeam.errors import ArgumentError

__all__ = [
    "ATTEND_RECIPES",
    "RECIPES",
    "SEARCH_RECIPES",
    "arguments_of",
    "attend_recipe",
    "check_attend_recipe",
    "check_recipe",
    "check_search_recipe",
    "check_writable",
    "device_of",
    "draft",
    "numbers_of",
    "recipe",
    "search_recipe",
    "trace",
]

#: The recipes of :mod:`hornbeam.recipes.keep`, named here so that a wrong one is refused without torch.
RECIPES = (
    "ada_kv",
    "ems",
    "expected_attention",
    "h2o",
    "int8",
    "key_diff",
    "kivi",
    "knorm",
    "prefix_kv",
    "pyramid_kv",
    "snap_kv",
    "sparse_mm",
    "streaming_llm",
    "tova",
    "window_kv",
    "zip_cache",
)

#: The recipes of :mod:`hornbeam.recipes.search` over steps, likewise, and what their own options become.
SEARCH_RECIPES = {
    "a_star": {"--children": "children"},
    "best_of_n": {"--width": "n"},
    "dvts": {"--width": "width", "--children": "children"},
    "ets": {"--width": "width", "--balance": "balance"},
    "particle_filter": {"--width": "width", "--balance": "balance"},
    "rebase": {"--width": "width", "--balance": "balance"},
    "step_beam": {"--width": "width", "--children": "children"},
}

#: The recipes of :mod:`hornbeam.recipes.attend` and :mod:`hornbeam.recipes.prefill`, likewise.
ATTEND_RECIPES = ("flex_prefill", "inf_llm", "minference", "quest", "twilight", "window")


def draft(name: str, corpus: Path | None) -> Any:
    """A draft source by its name."""
    from hornbeam.speculation import open_corpus
    from hornbeam.speculation.named import NAMED_DRAFTS, draft_of

    return draft_of(name) if corpus is None else NAMED_DRAFTS[name](corpus=open_corpus(corpus))


def check_recipe(name: str, option: str, head_scores: Path | None) -> None:
    """Refuses the name of no recipe, and scores that it does not take.

    Raises:
        ArgumentError: as it says.
    """
    if name not in RECIPES:
        raise ArgumentError(f'{option} is "{name}", expected one of: {", ".join(RECIPES)}')
    if name == "sparse_mm" and head_scores is None:
        raise ArgumentError("sparse_mm needs --head-scores, a file that HeadScores.save wrote")
    if name != "sparse_mm" and head_scores is not None:
        raise ArgumentError(f"--head-scores goes with {option} sparse_mm, got {name}")


def recipe(name: str, budget: str | None, head_scores: Path | None) -> Any:
    """A recipe by its name, with its own budget where none is given.

    Raises:
        ArgumentError: the budget is not a count, a percentage or a byte size.
    """
    from hornbeam.keep import HeadScores
    from hornbeam.recipes import keep as recipes

    make = getattr(recipes, name)
    given: list[Any] = [] if budget is None else [int(budget) if budget.isdecimal() else budget]
    if head_scores is None:
        return make(*given)
    split = HeadScores.load(head_scores)
    return replace(make(*given, head_scores=split.scores), split=split)


def check_search_recipe(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Refuses the name of no recipe, and options that it does not take; gives its arguments.

    Args:
        name: of the recipe.
        options: by their names, such as ``--width``; None where one is left out.

    Raises:
        ArgumentError: as it says.
    """
    if name not in SEARCH_RECIPES:
        raise ArgumentError(f'--recipe is "{name}", expected one of: {", ".join(SEARCH_RECIPES)}')
    own, arguments = SEARCH_RECIPES[name], {}
    for option, value in options.items():
        if value is None:
            continue
        if option not in own:
            takers = ", ".join(other for other, taken in SEARCH_RECIPES.items() if option in taken)
            raise ArgumentError(f"{option} goes with --recipe {takers}, got {name}")
        arguments[own[option]] = value
    return arguments


def search_recipe(name: str, arguments: dict[str, Any]) -> Any:
    """A recipe of :mod:`hornbeam.recipes.search`.

    Raises:
        ArgumentError: an argument is out of range.
    """
    from hornbeam.recipes import search as recipes

    policy = getattr(recipes, name)(**arguments)
    policy.open(0)  # which looks at what a policy's own arguments are
    return policy


def check_attend_recipe(name: str) -> None:
    """Refuses the name of no recipe.

    Raises:
        ArgumentError: as it says.
    """
    if name not in ATTEND_RECIPES:
        raise ArgumentError(f'--recipe is "{name}", expected one of: {", ".join(ATTEND_RECIPES)}')


def attend_recipe(name: str, arguments: dict[str, Any]) -> Any:
    """A recipe of :mod:`hornbeam.recipes.attend` or :mod:`hornbeam.recipes.prefill`.

    Raises:
        ArgumentError: it takes no such argument, lacks one, or one is out of range.
    """
    from hornbeam import recipes

    make = getattr(recipes, name)
    taken = inspect.signature(make).parameters
    for argument in arguments:
        if argument not in taken:
            raise ArgumentError(f"{name} takes no {argument}, expected some of: {', '.join(taken)}")
    missing = [n for n, found in taken.items() if found.default is found.empty and n not in arguments]
    if missing:
        raise ArgumentError(f"{name} needs --set {missing[0]}=...")
    return make(**arguments)


def arguments_of(settings: list[str], option: str) -> dict[str, Any]:
    """Arguments that are told as ``name=value``: whole numbers, other numbers, or else text.

    Args:
        settings: as they were told.
        option: that has them.

    Raises:
        ArgumentError: one is told otherwise, or twice.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (equals and name.isidentifier() and value):
            raise ArgumentError(f'{option} is "{setting}", expected name=value')
        if name in found:
            raise ArgumentError(f"{option} tells {name} twice, expected it once")
        try:
            found[name] = int(value)
        except ValueError:
            try:
                found[name] = float(value)
            except ValueError:
                found[name] = value
    return found


def numbers_of(text: str | None, option: str) -> list[int] | None:
    """Numbers that are told as ``0,3-5``, ascending; None where nothing is told.

    Args:
        text: as they were told.
        option: that has them.

    Raises:
        ArgumentError: they are told otherwise.
    """
    if text is None:
        return None
    found = set[int]()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        is_number = all(word.isascii() and word.isdecimal() for word in ([first, last] if dash else [first]))
        if not is_number or (dash and int(last) < int(first)):
            raise ArgumentError(f'{option} is "{text}", expected numbers such as 0,3-5')
        found.update(range(int(first), int(last or first) + 1))
    return sorted(found)


def device_of(name: str | None) -> str:
    """The device to load on.

    Raises:
        ArgumentError: hornbeam runs on no such device.
        CudaError: no kernel can run there; the message has the reason.
    """
    import torch

    from hornbeam import cuda

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = None
    if kind not in ("cpu", "cuda"):
        raise ArgumentError(f'device is "{name}", expected cpu, cuda or cuda:1')
    cuda.require(name)
    return name


def trace(path: Path | None) -> Any:
    """A recording, if its file can be written: better known before the text than after."""
    if path is None:
        return None
    from hornbeam.trace import Trace

    check_writable(path)
    return Trace()


def check_writable(path: Path) -> None:
    """Raises OSError if a file cannot be written, and leaves everything as it was."""
    is_new = not path.exists()
    with path.open("ab"):
        pass
    if is_new:
        path.unlink()
