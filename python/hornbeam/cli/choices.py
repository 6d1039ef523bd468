"""What options choose: a draft, a recipe, a device. All of it is checked before a model is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hornbeam.errors import ArgumentError

__all__ = [
    "ATTEND_RECIPES",
    "RECIPES",
    "SEARCH_RECIPES",
    "attend_recipe",
    "check_attend",
    "check_draft",
    "check_recipe",
    "check_search_recipe",
    "check_writable",
    "device_of",
    "draft",
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

#: Those of :mod:`hornbeam.recipes.attend`, likewise, and the name of the amount that each reads.
ATTEND_RECIPES = {"inf_llm": "blocks", "quest": "pages", "twilight": "pages", "window": "tokens"}

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


def check_draft(name: str, corpus: Path | None, head: Path | None) -> None:
    """Refuses a corpus or a feature head for a draft that has none.

    Raises:
        ArgumentError: as it says.
    """
    if corpus is not None and name not in ("auto", "suffix"):
        raise ArgumentError(f"--corpus goes with --draft auto or suffix, got {name}")
    if head is not None and name not in ("auto", "head"):
        raise ArgumentError(f"--head goes with --draft auto or head, got {name}")


def draft(name: str, corpus: Path | None, head: Path | None = None) -> Any:
    """A draft source by its name, with the files that :func:`check_draft` let pass.

    Raises:
        ArgumentError: a file is of another kind, or not there.
        OSError: a file cannot be read.
    """
    from hornbeam.speculation import FeatureHead, open_corpus
    from hornbeam.speculation.draft.head_network import HeadFile
    from hornbeam.speculation.named import NAMED_DRAFTS, draft_of

    options: dict[str, Any] = {}
    if corpus is not None:
        options["corpus"] = open_corpus(corpus)
    if head is not None:
        own = FeatureHead(head)
        HeadFile.load(own.path)  # which says what is wrong with it
        if name == "head":
            return own
        options["head"] = own
    return NAMED_DRAFTS[name](**options) if options else draft_of(name)


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


def check_attend(name: str | None, amount: str | None) -> None:
    """Refuses the name of no recipe of sparse decoding, and an amount without one.

    Raises:
        ArgumentError: as it says.
    """
    if name is None and amount is not None:
        raise ArgumentError("--attend-amount goes with --attend, which is not given")
    if name is not None and name not in ATTEND_RECIPES:
        raise ArgumentError(f'--attend is "{name}", expected one of: {", ".join(ATTEND_RECIPES)}')


def attend_recipe(name: str, amount: str | None) -> Any:
    """A recipe of sparse decoding by its name, with its own amount where none is given.

    Raises:
        ArgumentError: the recipe does not take the amount.
    """
    from hornbeam.recipes import attend as recipes

    if amount is None:
        return getattr(recipes, name)()
    if not amount.isdecimal() and name != "quest":
        raise ArgumentError(f'--attend-amount is "{amount}", expected a number for --attend {name}')
    return getattr(recipes, name)(**{ATTEND_RECIPES[name]: int(amount) if amount.isdecimal() else amount})


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
