"""Writes docs/reference.md: every public name, from the docstrings and signatures of the package.

    python scripts/reference.py            # writes the page
    python scripts/reference.py --check    # says what is missing, and whether the page is of before

A class or function needs a docstring, and a word about each of its arguments: in a section ``Args``, at the
field of a dataclass, or, where it says "As :func:`x`", at ``x``. Methods may name an argument in their text
instead, or have it from the class or the protocol that they fill in.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "python"), str(Path(__file__).parent)]

from docstrings import constant_doc, field_docs, plain, referred, said, stub_doc, summary, told  # noqa: E402

import hornbeam as hb  # noqa: E402
from hornbeam.engine.requests import Requests  # noqa: E402
from hornbeam.speculation import protocols  # noqa: E402
from hornbeam.speculation.stop.gate import Gate  # noqa: E402
from hornbeam.speculation.tree_building import Shape  # noqa: E402

PAGE = ROOT / "docs" / "reference.md"
#: What calls give beside what they are named for, by the modules where it lies.
HANDLES = {
    "hornbeam.engine.engine": ("Event",),
    "hornbeam.engine.request": ("Request",),
    "hornbeam.engine.stream": ("TokenStream",),
    "hornbeam.cache.branch": ("Branch",),
    "hornbeam.cache.step": ("Step",),
}
#: Where the arguments of methods that others fill in are told.
PROTOCOLS = (*filter(inspect.isclass, map(vars(protocols).get, protocols.__all__)), hb.spec.Rule, Gate, Shape)
UNSAID = ("self", "cls")
#: The machinery of the engine, which its steps call.
INTERNAL = (Requests,)

HEAD = """\
# Reference

Every public name, with its arguments and their defaults. `python scripts/reference.py` writes this page from
docstrings and signatures; `help(name)` in Python shows the whole of one. `hb` is `import hornbeam as hb`.
"""


@dataclass(frozen=True)
class Argument:
    """An argument or a field, and what is said of it."""

    name: str
    default: str
    text: str


# --- what is public -----------------------------------------------------------------------------------


@functools.cache
def sections() -> dict[str, list[tuple[str, Any]]]:
    """By module, as a user writes it, its public names in order."""
    found: dict[str, list[tuple[str, Any]]] = {}
    seen: set[int] = set()

    def walk(shown: str, module: ModuleType) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        found[shown] = []
        inner = []
        named = (name for name in module.__all__ if not name.startswith("__"))
        for name in sorted(named, key=lambda name: (name != "spec", name.lower())):
            value = getattr(module, name)
            if isinstance(value, ModuleType):
                inner.append((f"{shown}.{name}", value))
            else:
                found[shown].append((name, value))
        for name, value in inner:
            walk(name, value)

    walk("hb", hb)
    for apart in ("hornbeam.serve", "hornbeam.serve.ray", "hornbeam.training"):
        walk(apart, importlib.import_module(apart))
    for path, names in HANDLES.items():
        module = importlib.import_module(path)
        found[path] = [(name, getattr(module, name)) for name in names]
    return {shown: names for shown, names in found.items() if names}


def methods_of(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class. Those of a base that is public itself are told there; of
    what calls give, a base is no business of users."""
    told = {id(value) for names in sections().values() for _, value in names}
    seen: set[str] = set()
    for base in (cls,) if is_handle(cls) else cls.__mro__:
        is_elsewhere = base is not cls and id(base) in told
        if base.__module__.split(".")[0] not in ("hornbeam", cls.__module__.split(".")[0]) or is_elsewhere:
            continue
        if base in INTERNAL:
            continue
        for name, value in vars(base).items():
            is_one = callable(value) or isinstance(value, property | classmethod | staticmethod)
            if name[0] != "_" and name not in seen and is_one and not inspect.isclass(value):
                seen.add(name)
                yield name, value


def is_handle(cls: type) -> bool:
    """Whether calls make its objects, rather than users."""
    return cls.__name__ in HANDLES.get(cls.__module__, ()) and not issubclass(cls, tuple)


# --- arguments ----------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A default as it is written; a function has no short form."""
    if inspect.isclass(value) or inspect.isroutine(value):
        return "..."
    return repr(value)


def arguments(value: Any) -> list[Argument]:
    """The arguments of a function, or of the constructor of a class, each with what is said of it."""
    if inspect.isclass(value) and is_handle(value):
        return []
    text = said(value)
    words = told(text)
    if inspect.isclass(value):
        for base in value.__mro__[1:]:
            if base.__module__.startswith("hornbeam."):
                words = told(said(base)) | words
        words = told(inspect.cleandoc(vars(value).get("__init__", object).__doc__ or "")) | words
        if value.__module__ != "hornbeam._native":
            words = field_docs(value) | words
    for other in referred(text):
        words = {argument.name.strip("*"): argument.text for argument in arguments(other)} | words
    found = []
    names = {name.strip("*") for name, _ in defaults(value)}
    for name, default in defaults(value):
        about = words.get(name.strip("*"))
        if name.startswith("**") and about is None:
            # Keywords that are named one by one, where they have no place in the signature.
            others = [Argument(other, "", plain(text)) for other, text in words.items() if other not in names]
        else:
            others = []
        found += others or [Argument(name, default, plain(about or ""))]
    return found


def defaults(value: Any) -> Iterator[tuple[str, str]]:
    """The names of arguments, each with its default as text, or nothing."""
    if inspect.isclass(value) and getattr(value, "_is_protocol", False):
        names = [name for base in reversed(value.__mro__) for name in vars(base).get("__annotations__", ())]
        yield from ((name, "") for name in names if name[0] != "_" and name not in vars(value))
        return
    if inspect.isclass(value) and issubclass(value, BaseException):
        return
    made = {}
    if is_dataclass(value):
        # The signature does not say what a factory makes.
        made = {field.name: field.default_factory for field in fields(value)}
    for name, parameter in inspect.signature(value).parameters.items():
        if name in UNSAID or name[0] == "_":
            continue
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = parameter.default
        if made.get(name, MISSING) is not MISSING:
            default = made[name]()
        yield stars + name, "" if default is parameter.empty else shown(default)


def signature(name: str, value: Any) -> str:
    """A call of it, with its defaults."""
    if isinstance(value, property):
        return name
    if isinstance(value, classmethod | staticmethod):
        value = value.__func__
    try:
        kinds = inspect.signature(value).parameters
    except (TypeError, ValueError):
        kinds = {}
    words, keyword_only = [], False
    for argument, default in defaults(value):
        kind = kinds[argument.strip("*")].kind if argument.strip("*") in kinds else None
        if kind is inspect.Parameter.VAR_POSITIONAL:
            keyword_only = True
        if kind is inspect.Parameter.KEYWORD_ONLY and not keyword_only:
            words.append("*")
            keyword_only = True
        words.append(f"{argument}={default}" if default else argument)
    return f"{name}({', '.join(words)})"


# --- what is missing, and the page --------------------------------------------------------------------


def problems() -> list[str]:
    """What a public name lacks: a docstring, or a word about an argument."""
    found = []
    for place, names in sections().items():
        for name, value in names:
            path = f"{place}.{name}"
            if not (inspect.isclass(value) or inspect.isroutine(value)):
                if not constant_doc(module_of(place), name):
                    found.append(f"{path} has no comment that says what it is")
                continue
            if not said(value):
                found.append(f"{path} has no docstring")
            found += [
                f"{path} does not say what {argument.name} is"
                for argument in arguments(value)
                if not argument.text
            ]
            if inspect.isclass(value):
                for method, member in methods_of(value):
                    found += [f"{path}.{method} {lack}" for lack in lacks(value, method, member)]
    return found


def lacks(cls: type, name: str, member: Any) -> Iterator[str]:
    """What a method or a property lacks."""
    texts = [text for base in (*cls.__mro__, *PROTOCOLS) if (text := method_doc(base, name))]
    if not texts:
        yield "has no docstring"
    if isinstance(member, property) or cls.__module__ == "hornbeam._native":
        return
    function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
    known = set()
    for text in texts:
        known |= {*told(text), *re.findall(r"``?(\w+)", text)}
        known |= {argument.name.strip("*") for other in referred(text) for argument in arguments(other)}
    for argument, _ in defaults(function):
        if argument.strip("*") not in known:
            yield f"does not say what {argument} is"


def method_doc(cls: type, name: str) -> str:
    """The docstring of a method of a class, without those of its bases."""
    if cls.__module__ == "hornbeam._native":
        return stub_doc(cls.__name__, name)
    member = None if cls.__module__ == "builtins" else vars(cls).get(name)
    return inspect.cleandoc(getattr(member, "__doc__", None) or "")


def module_of(place: str) -> str:
    """The module that a section shows."""
    path = re.sub(r"^hb\b", "hornbeam", place)
    return path.replace("hornbeam.spec", "hornbeam.speculation") if place.startswith("hb.spec") else path


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for place, names in sections().items():
        parts.append(f"\n## {place}\n")
        about = importlib.import_module(module_of(place)).__doc__ or ""
        parts.append(f"{summary(inspect.cleandoc(about))}\n")
        for name, value in names:
            parts.append("\n".join(entry(place, name, value)) + "\n")
    return "\n".join(parts)


def entry(place: str, name: str, value: Any) -> Iterator[str]:
    """The lines about a name."""
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        kind = f" = `{value!r}`" if isinstance(value, int | float | str) else ""
        yield f"### {name}\n"
        yield f"`{place}.{name}`{kind}: {plain(constant_doc(module_of(place), name))}"
        return
    given = arguments(value)
    is_made = not inspect.isclass(value) or bool(given and not getattr(value, "_is_protocol", False))
    yield f"### {name}\n"
    yield f"`{signature(name, value) if is_made else name}`: {summary(said(value))}"
    if given:
        yield ""
    for argument in given:
        default = f", `{argument.default}` by default" if argument.default else ""
        yield f"- `{argument.name}`{default}: {argument.text}"
    members = list(methods_of(value)) if inspect.isclass(value) else []
    if members:
        yield ""
    for method, member in members:
        texts = (method_doc(base, method) for base in (*value.__mro__, *PROTOCOLS))
        text = next(filter(None, texts), "")
        yield f"- `.{signature(method, member)}`: {summary(text)}"
        yield from (f"  - `{argument}`: {plain(words)}" for argument, words in told(text).items())


def main() -> None:
    """Writes the page, or compares it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something is missing")
    check = parser.parse_args().check
    missing, text = problems(), page()
    if check:
        old = PAGE.read_text(encoding="utf-8").splitlines()
        missing += difflib.unified_diff(old, text.splitlines(), "docs/reference.md", "as it is", lineterm="")
    else:
        PAGE.write_text(text, encoding="utf-8")
    if missing:
        sys.exit("\n".join(missing))


if __name__ == "__main__":
    main()
