"""Functions of one's own that options name: ``module:function``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hornbeam.errors import ArgumentError

__all__ = ["function_of"]


def function_of(name: str, option: str) -> Callable[..., Any]:
    """What ``module:function`` names; the module may lie in the current folder, as for ``python -m``.

    Args:
        name: such as ``"judge:value"`` or ``"package.judge:values.exact"``.
        option: that has it.

    Raises:
        ArgumentError: there is no such module, it has no such function, or what it has cannot be called.
    """
    module, colon, path = name.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module.split("."), *path.split(".")]):
        raise ArgumentError(f'{option} is "{name}", expected module:function')
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # One that the module itself imports is not there: that is another error.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ArgumentError(
            f'{option} is "{name}", and there is no module {module}, neither in {folder} nor installed'
        ) from None
    holder = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise ArgumentError(f'{option} is "{name}", and {holder} has no {part}')
        found, holder = getattr(found, part), f"{holder}.{part}"
    if isinstance(found, type) or not callable(found):
        kind = "a class" if isinstance(found, type) else f"a {type(found).__name__}"
        raise ArgumentError(f'{option} is "{name}", {kind}, expected a function or an object like one')
    return found
