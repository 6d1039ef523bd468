"""Families of methods: a folder with one method a file, which is found there without being listed."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["export", "methods_in"]

#: The file of a family that holds what its methods share, and no method.
SHARED = "base"


def methods_in(
    package: str, path: Iterable[str], is_method: Callable[[type[Any]], bool]
) -> dict[str, type[Any]]:
    """The public classes of a family, by name; imports all of its files.

    Args:
        package: the name of the family's package.
        path: its ``__path__``.
        is_method: tells a method from a helper that stands in the same file.

    Raises:
        ImportError: two files have a method of one name.
    """
    found: dict[str, type[Any]] = {}
    for file in sorted(module.name for module in pkgutil.iter_modules(path)):
        if file == SHARED:
            continue
        module = importlib.import_module(f"{package}.{file}")
        for name, value in vars(module).items():
            is_own = isinstance(value, type) and value.__module__ == module.__name__
            if is_own and not name.startswith("_") and is_method(value):
                _add(found, package, name, value)
    return found


def export(namespace: dict[str, Any], *families: Mapping[str, type[Any]]) -> None:
    """Makes the methods of families attributes of a package, and names them in its ``__all__``.

    Args:
        namespace: ``globals()`` of the package.
        families: what :func:`methods_in` gave.

    Raises:
        ImportError: the package has something else of that name.
    """
    for methods in families:
        for name, method in methods.items():
            _add(namespace, namespace["__name__"], name, method)
            if name not in namespace["__all__"]:
                namespace["__all__"].append(name)


def _add(namespace: dict[str, Any], package: str, name: str, method: type[Any]) -> None:
    other = namespace.setdefault(name, method)
    if other is not method:
        holder = getattr(other, "__module__", type(other).__name__)
        raise ImportError(
            f"{method.__module__} has a method {name}, which {package} has from {holder} already, "
            "expected another name"
        )
