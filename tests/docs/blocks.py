"""Finds what the documentation shows: blocks and commands of its pages, and examples of docstrings."""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "python" / "hornbeam"
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
#: What a fence may say of its language. ``cargo test`` runs Rust. Text is shown, not run: a table, or what a
#: program printed.
LANGUAGES = ("python", "rust", "sh", "text")
#: The words with which a command in the text begins.
PROGRAMS = ("make", "hornbeam", "python", "pip", "cargo")

MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """A piece of code in a file of the documentation."""

    file: Path
    line: int
    """Of its first line of code, from 1."""
    language: str
    code: str
    is_alone: bool = False
    """Whether it has a namespace of its own: a fence that says ``python alone``."""

    @property
    def place(self) -> str:
        """File and line, as editors take them."""
        name = self.file.relative_to(ROOT) if self.file.is_relative_to(ROOT) else self.file
        return f"{name}:{self.line}"

    def compiled(self) -> Any:
        """The code, whose traceback names the page and its line.

        Raises:
            SyntaxError: it is no Python.
        """
        return compile("\n" * (self.line - 1) + self.code, str(self.file), "exec")

    def commands(self) -> list[tuple[int, str]]:
        """The lines of a block of shell commands, comments left out, each with its number in the file."""
        lines = enumerate(self.code.splitlines(), self.line)
        return [(number, line.strip()) for number, line in lines if line.strip() and line.lstrip()[0] != "#"]


def blocks_of(file: Path, text: str | None = None) -> list[Block]:
    """The fenced blocks of a page, in order.

    Raises:
        ValueError: a fence that does not say what language it is, or a block that is indented instead.
    """
    found = []
    for token in MARKDOWN.parse(file.read_text(encoding="utf-8") if text is None else text):
        if token.type == "code_block":
            raise ValueError(f"{_place(file, token)}: an indented block, expected a fence with its language")
        if token.type == "fence":
            language, *words = token.info.split() or [""]
            if language not in LANGUAGES or words not in ([], ["alone"]):
                expected = f"{', '.join(LANGUAGES)}, or python alone"
                raise ValueError(f"{_place(file, token)}: a fence of {token.info!r}, expected {expected}")
            found.append(Block(file, _line(token) + 1, language, token.content, bool(words)))
    return found


def spans_of(file: Path) -> list[tuple[int, str]]:
    """The pieces of code within the text of a page, each with the line on which its paragraph begins."""
    return [
        (_line(token), child.content)
        for token in MARKDOWN.parse(file.read_text(encoding="utf-8"))
        for child in token.children or []
        if child.type == "code_inline"
    ]


def commands_in_text(file: Path) -> list[tuple[int, str]]:
    """Those of the spans that are commands: a program with something to do, or ``make``."""

    def is_command(program: str, *words: str) -> bool:
        if program == "python":  # and not the language
            return bool(words) and ("/" in words[0] or words[0] == "-m")
        return program in PROGRAMS and (bool(words) or program == "make")

    return [(line, span) for line, span in spans_of(file) if is_command(*span.split())]


def links_of(file: Path) -> list[tuple[int, str]]:
    """The targets of links and images of a page."""
    return [
        (_line(token), str(child.attrs.get("href") or child.attrs.get("src")))
        for token in MARKDOWN.parse(file.read_text(encoding="utf-8"))
        for child in token.children or []
        if child.type in ("link_open", "image")
    ]


def docstrings_of(file: Path) -> Iterator[tuple[int, str]]:
    """The docstrings of a module, its classes and functions, each with its line."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text is not None:
                yield node.body[0].lineno, text


def examples_of(file: Path) -> list[Block]:
    """The examples in the docstrings of a module: what follows ``::``, and what follows ``>>>``."""
    found = []
    for line, text in docstrings_of(file):
        found += [Block(file, line + at, "python", code) for at, code in literal_blocks(text)]
        examples = doctest.DocTestParser().get_examples(text)
        if examples:
            code = "".join(example.source for example in examples)
            found.append(Block(file, line + examples[0].lineno, "python", code))
    return found


def literal_blocks(text: str) -> Iterator[tuple[int, str]]:
    """What stands indented below a line that ends with ``::``, each with its line, from 0."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if not line.rstrip().endswith("::"):
            continue
        indent = len(line) - len(line.lstrip()) if at else 0
        body = []
        for below in lines[at + 1 :]:
            if below.strip() and len(below) - len(below.lstrip()) <= indent:
                break
            body.append(below)
        empty = next((i for i, below in enumerate(body) if below.strip()), 0)
        yield at + 1 + empty, dedent("\n".join(body[empty:])).rstrip() + "\n"


def headings_of(file: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    tokens = MARKDOWN.parse(file.read_text(encoding="utf-8"))
    titles = [after.content for token, after in pairwise(tokens) if token.tag[:1] == "h"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _line(token: Any) -> int:
    return token.map[0] + 1


def _place(file: Path, token: Any) -> str:
    return Block(file, _line(token), "", "").place
