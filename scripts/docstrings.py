"""Reads docstrings: what they say of a name in one line, and of each of its arguments."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STUB = Path(__file__).parent.parent / "python" / "hornbeam" / "_native.pyi"


def said(value: Any) -> str:
    """The docstring of a class, a function or a property; of the native module's classes that of the stub."""
    if inspect.isclass(value) and value.__module__ == "hornbeam._native":
        return stub_doc(value.__name__)
    if inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, property):
        own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        text = inspect.cleandoc(own or "")
        # What dataclasses write themselves is the signature.
        return "" if inspect.isclass(value) and text.startswith(f"{value.__name__}(") else text
    return ""


def summary(text: str) -> str:
    """The first sentence, without the marks of Sphinx."""
    first = re.sub(r"::?$", "", text.split("\n\n")[0])
    first = " ".join(first.split())
    end = re.search(r"(?<!e\.g)(?<! al)(?<! vs)\.(?=\s+[A-Z`*:\"]|$)", first)
    return plain(first if end is None else first[: end.end()])


def plain(text: str) -> str:
    """Text of a docstring as Markdown."""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda found: f"`{shortened(found[1])}`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def shortened(path: str) -> str:
    """A name as a user writes it."""
    return path.replace("hornbeam.speculation", "hb.spec").replace("hornbeam.", "hb.", 1)


def told(text: str) -> dict[str, str]:
    """What the sections of a docstring say of each argument."""
    found: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", text + "\n", re.MULTILINE):
        lines = inspect.cleandoc("\n" + section).splitlines()
        names: list[str] = []
        for line in lines:
            entry = re.match(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*)|(\*{0,2}\w+(?:, \*{0,2}\w+)*):$", line)
            if entry and not line.startswith(" "):
                names = [name.strip(" *") for name in (entry[1] or entry[3]).split(",")]
                for name in names:
                    found[name] = (entry[2] or "").strip()
            else:
                for name in names:
                    found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def referred(text: str) -> Iterator[Any]:
    """What a docstring says to be like: the functions that it names so."""
    for path in re.findall(r"\b(?:[Aa]s|those of|^See) :\w+:`~?([\w.]+)`", text):
        parts = path.split(".")
        for cut in range(1, len(parts) + 1):  # a function may have the name of its file
            try:
                value: Any = importlib.import_module(".".join(parts[:cut]))
                for name in parts[cut:]:
                    value = getattr(value, name)
            except (ImportError, AttributeError):
                continue
            if callable(value):
                yield value
            break


@functools.cache
def parsed(path: str) -> ast.Module:
    return ast.parse(Path(path).read_text(encoding="utf-8"))


def node_of(cls: type) -> ast.ClassDef | None:
    """The source of a class."""
    tree = parsed(inspect.getsourcefile(cls) or "")
    found = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == cls.__name__)
    return next(found, None)


def stub_doc(name: str, method: str | None = None) -> str:
    """The docstring of a class of the native module, or of one of its methods, in the stub."""
    tree = parsed(str(STUB))
    body: list[ast.stmt] = tree.body
    for part in (name, method):
        if part is not None:
            node = next(node for node in body if getattr(node, "name", None) == part)
            assert isinstance(node, ast.ClassDef | ast.FunctionDef)
            body = node.body
    return ast.get_docstring(node) or ""


def field_docs(cls: type) -> dict[str, str]:
    """What stands at the fields of a class: a string below, or a comment ``#:`` above."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        node = node_of(base) if base.__module__ not in ("builtins", "hornbeam._native") else None
        lines = Path(inspect.getsourcefile(base) or "").read_text("utf-8").splitlines() if node else []
        for at, item in enumerate(node.body if node else ()):
            if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
                continue
            below = node.body[at + 1] if node and at + 1 < len(node.body) else None
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[item.target.id] = " ".join(inspect.cleandoc(str(below.value.value)).split())
            elif comment := commented(lines, item.lineno):
                found[item.target.id] = comment
    return found


def commented(lines: list[str], line: int) -> str:
    """The comment ``#:`` above a line of source."""
    words: list[str] = []
    while line >= 2 and lines[line - 2].strip().startswith("#:"):
        line -= 1
        words.insert(0, lines[line - 1].strip()[2:].strip())
    return " ".join(words)


def constant_doc(module: str, name: str) -> str:
    """What stands at a constant of a module, or of the one that it is imported from."""
    path = inspect.getsourcefile(importlib.import_module(module)) or ""
    tree, lines = parsed(path), Path(path).read_text(encoding="utf-8").splitlines()
    for at, node in enumerate(tree.body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        targets = [part for target in targets for part in getattr(target, "elts", [target])]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            below = tree.body[at + 1] if at + 1 < len(tree.body) else None
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                return " ".join(str(below.value.value).split())
            return commented(lines, node.lineno)
        if isinstance(node, ast.ImportFrom) and any(
            (alias.asname or alias.name) == name for alias in node.names
        ):
            return constant_doc(str(node.module), name)
    return ""
