"""A call of :meth:`hornbeam.LM.search`: its arguments checked, and run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hornbeam.engine.searching import Searching
from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number
from hornbeam.prompt import prompts_of
from hornbeam.search.budget import Budget
from hornbeam.search.path import SearchResult
from hornbeam.search.policy.base import Policy
from hornbeam.search.step_end import StepEnd
from hornbeam.search.value import Likelihood

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine

__all__ = ["search"]


def search(
    engine: Engine,
    prompt: Any,
    *,
    recipe: Any,
    value: Any,
    finish: Any,
    step: Any,
    budget: Any,
    seed: Any,
    draft: Any,
    keep: Any,
    select: Any,
    watch: Any,
    **refused: Any,
) -> SearchResult:
    """What :meth:`hornbeam.LM.search` does, its arguments checked.

    Raises:
        ArgumentError: one of them is not of its kind.
    """
    for name, given in refused.items():
        if given is not None:
            raise ArgumentError(f"{name} is given, expected None: a search does not have it yet")
    kinds = (
        ("recipe", recipe, Policy, "a policy of hornbeam.search such as hb.recipes.rebase(width=16)"),
        ("step", step, StepEnd, "a hornbeam.search.StepEnd"),
        ("budget", budget, Budget, "a hornbeam.Budget"),
    )
    for name, given, kind, expected in kinds:
        if not isinstance(given, kind):
            raise ArgumentError(f"{name} is {given!r}, expected {expected}")
    if value is None:
        value = Likelihood(as_probability=recipe.wants_probability)
    for name, given in (("value", value), ("finish", finish), ("select", select), ("watch", watch)):
        if given is not None and not callable(given):
            raise ArgumentError(f"{name} is {given!r}, expected a callable")
    if step.delimiter is not None and engine.tokenizer is None:
        raise ArgumentError("step has a delimiter, but this LM has no tokenizer; expected delimiter=None")
    seed = whole_number(seed, "seed", 0, 2**64 - 1)
    prompts, many = prompts_of(engine, prompt)
    if many and len(prompts) > 1:
        raise ArgumentError(f"search takes one prompt, got {len(prompts)}")
    return Searching(
        engine, prompts[0], recipe, value, finish, step, budget, seed, draft, keep, select, watch
    ).run()
