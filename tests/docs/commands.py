"""Looks whether a documented command is one: its program, its file or target, and its options."""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
import subprocess

from tests.docs.blocks import ROOT

#: Packages that the documentation may tell to install beside the extras of this one.
INSTALLED = ("requirements-dev.txt", "pyproject.toml", "Makefile")


def check_command(line: str, environment: dict[str, str]) -> None:
    """Raises AssertionError unless every part of a shell line exists: targets of make, commands, options of
    ``hornbeam`` and of scripts, extras and packages."""
    for part in re.split(r"&&|\||;", line):
        words = [word for word in shlex.split(part, comments=True) if word not in ("...", "…")]
        check = CHECKS.get(words[0])
        assert check is not None, f"{words[0]!r} is not a program that the documentation may name"
        check(words[1:], environment)


def _make(words: list[str], environment: dict[str, str]) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, is_variable, _ = word.partition("=")
        found = rf"\$\((?:or \$\()?{name}\b|^{name} \?=" if is_variable else rf"^{re.escape(name)}:"
        assert re.search(found, text, re.MULTILINE), f"the Makefile knows no {name}"


def _hornbeam(words: list[str], environment: dict[str, str]) -> None:
    listed = _help(("hornbeam",), environment)
    if words and not words[0].startswith("-"):
        assert re.search(rf"^\W*{words[0]}\b", listed, re.MULTILINE), f"hornbeam has no command {words[0]}"
        listed = _help(("hornbeam", words[0]), environment)
        if words[0] == "bench":
            _names_a_bench(words[1:], listed)
    _knows_options(words, listed)


def _python(words: list[str], environment: dict[str, str]) -> None:
    if words[0] == "-m":
        words = words[1:]
        assert importlib.util.find_spec(words[0]) is not None, f"there is no module {words[0]}"
        listed = _help(("python", "-m", words[0]), environment)
    else:
        assert (ROOT / words[0]).is_file(), f"there is no file {words[0]}"
        listed = _help(("python", words[0]), environment)
    if "benches:" in listed:
        _names_a_bench(words[1:], listed)
    _knows_options(words[1:], listed)


def _pip(words: list[str], environment: dict[str, str]) -> None:
    known = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in INSTALLED)
    assert words[0] == "install", f"pip {words[0]}, expected pip install"
    for word in words[1:]:
        if word.startswith("-"):
            continue
        package, _, extras = word.rstrip("]").partition("[")
        assert package in (".", "hornbeam") or re.search(rf"\b{re.escape(package)}\b", known), (
            f"nothing here needs the package {package}"
        )
        for extra in filter(None, extras.split(",")):
            assert re.search(rf"^{extra} = \[", known, re.MULTILINE), f"there is no extra {extra}"


def _cargo(words: list[str], environment: dict[str, str]) -> None:
    assert words[0] in ("build", "test", "clippy", "doc"), (
        f"cargo {words[0]} is not what builds or tests this"
    )


CHECKS = {"make": _make, "hornbeam": _hornbeam, "python": _python, "pip": _pip, "cargo": _cargo}


def _names_a_bench(words: list[str], listed: str) -> None:
    """Looks for the first word among the benches that the help lists."""
    name = next((word for word in words if not word.startswith("-")), None)
    if name is not None and name not in ("NAME", "NAME..."):
        assert re.search(rf"^  {name} ", listed, re.MULTILINE), f"there is no bench {name}"


def _knows_options(words: list[str], listed: str) -> None:
    for word in words:
        if word.startswith("-") and word not in ("-", "--help"):
            option = word.partition("=")[0]
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", listed), f"no option {option}"


def _help(words: tuple[str, ...], environment: dict[str, str]) -> str:
    return _printed((*words, "--help"), tuple(sorted(environment.items())))


@functools.cache
def _printed(words: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> str:
    done = subprocess.run(
        words, env=dict(environment), cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-500:]}"
    return done.stdout
