"""What the options of ``hornbeam attend`` choose: a recipe of either kind, its arguments, and layers."""

from __future__ import annotations

import inspect
from typing import Any

from hornbeam.errors import ArgumentError

__all__ = ["STUDIED", "arguments_of", "check_studied", "numbers_of", "studied_recipe"]

#: The recipes of :mod:`hornbeam.recipes.attend` and :mod:`hornbeam.recipes.prefill`, named here so that a
#: wrong one is refused without torch.
STUDIED = ("flex_prefill", "inf_llm", "minference", "quest", "twilight", "window")


def check_studied(name: str) -> None:
    """Refuses the name of no recipe.

    Raises:
        ArgumentError: as it says.
    """
    if name not in STUDIED:
        raise ArgumentError(f'--recipe is "{name}", expected one of: {", ".join(STUDIED)}')


def studied_recipe(name: str, arguments: dict[str, Any]) -> Any:
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
