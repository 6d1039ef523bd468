"""What the pages name exists: functions and their keywords, files, and the targets of links."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import hornbeam as hb
from tests.docs.blocks import PACKAGE, PAGES, ROOT, headings_of, links_of, spans_of
from tests.docs.test_blocks_run import named

#: Pages of decisions tell of names and files as they were.
TODAY = [page for page in PAGES if page.parent.name != "decisions"]
#: What a name on a page may begin with.
ROOTS = {
    "hb": hb,
    "hornbeam": hb,
    "spec": hb.spec,
    "recipes": hb.recipes,
    "ops": hb.ops,
    "keep": hb.keep,
    "attend": hb.attend,
    "lm": hb.LM,
}
#: What follows the dot of a file.
SUFFIXES = ("py", "rs", "json", "safetensors", "md")
#: Where a file that a page names may lie.
FOLDERS = (ROOT, ROOT / "docs", ROOT / "python", PACKAGE, PACKAGE / "engine", ROOT / "rust" / "core" / "src")
CODE = {file.name for folder in ("python", "rust", "cuda", "tests") for file in (ROOT / folder).rglob("*.*")}


def attribute(path: str) -> Any:
    """What a dotted name means.

    Raises:
        AttributeError: there is nothing of that name.
    """
    first, *rest = path.split(".")
    value = ROOTS[first]
    for name in rest:
        value = member(value, name)
    return value


def member(value: Any, name: str) -> Any:
    """An attribute; of a class also one that its objects alone have, for which the name stands."""
    if inspect.ismodule(value) and not hasattr(value, name):
        with suppress(ModuleNotFoundError):
            importlib.import_module(f"{value.__name__}.{name}")
    if inspect.isclass(value) and not hasattr(value, name):
        sources = [
            inspect.getsource(base) for base in value.__mro__ if base.__module__.startswith("hornbeam.")
        ]
        if any(re.search(rf"^    {name}:|self\.{name}\b.* = ", source, re.MULTILINE) for source in sources):
            return name
    return getattr(value, name)


def calls_of(page: Path) -> Iterator[tuple[int, str, str]]:
    """The names of this package in a page, each with its line and what stands in its parentheses."""
    for line, span in spans_of(page):
        for path, inside in re.findall(rf"(?<![\w.])((?:{'|'.join(ROOTS)})(?:\.\w+)+)(?:\(([^()]*))?", span):
            if path.rpartition(".")[2] not in SUFFIXES:
                yield line, path, inside


@pytest.mark.parametrize("page", TODAY, ids=named)
def test_names_of_the_package(page: Path) -> None:
    for line, path, inside in calls_of(page):
        try:
            value = attribute(path)
        except AttributeError as error:
            raise AssertionError(f"{named(page)}:{line}: {path}: {error}") from error
        keywords = re.findall(r"(?:^|, )(\w+)=", inside)
        if keywords and callable(value):
            parameters = inspect.signature(value).parameters
            takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
            unknown = [] if takes_any else [word for word in keywords if word not in parameters]
            assert not unknown, f"{named(page)}:{line}: {path} takes no {', '.join(unknown)}"


@pytest.mark.parametrize("page", TODAY, ids=named)
def test_files(page: Path) -> None:
    for line, span in spans_of(page):
        is_path = re.fullmatch(r"[A-Za-z_][\w.*-]*(/[\w.*-]+)+/?|\w+/", span)
        is_file = re.fullmatch(r"\w+\.(py|rs|cu|cuh|toml|json|tsv)", span)
        if is_path:
            found = any(list(folder.glob(f"{span.rstrip('/')}*")) for folder in FOLDERS)
        elif is_file:
            found = span in CODE or any((folder / span).exists() for folder in FOLDERS)
        else:
            continue
        assert found, f"{named(page)}:{line}: there is no {span}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links(page: Path) -> None:
    for line, link in links_of(page):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = page.parent / path if path else page
        assert target.exists(), f"{named(page)}:{line}: there is no {link}"
        assert not anchor or anchor in headings_of(target), f"{named(page)}:{line}: no heading for {link}"


@pytest.mark.parametrize(
    ("path", "is_there"),
    [
        ("hb.keep.HeadScores.save", True),
        ("hb.errors.InternalError", True),
        ("spec.Outcome.position", True),
        ("hb.integrations.kvpress.as_recipe", True),
        ("hb.keep.HeadScore", False),
        ("hb.nothing.at_all", False),
        ("spec.Outcome.place", False),
    ],
)
def test_what_a_name_means(path: str, is_there: bool) -> None:
    if is_there:
        assert attribute(path) is not None
    else:
        with pytest.raises(AttributeError):
            attribute(path)
