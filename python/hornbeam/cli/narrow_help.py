"""Help for narrow terminals: every option on a line of its own, what it does below.

Typer's table cuts the names of options off where its columns do not fit side by side.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["Command", "Group"]

#: Columns from which on Typer's table has room for all names.
TABLE_COLUMNS = 80


class Command(TyperCommand):
    """A command whose help fits any width."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        if not _write_narrow(self, ctx, formatter):
            super().format_help(ctx, formatter)


class Group(TyperGroup):
    """A group of commands whose help fits any width."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        if not _write_narrow(self, ctx, formatter):
            super().format_help(ctx, formatter)


def _write_narrow(command: Any, ctx: Any, formatter: Any) -> bool:
    """Writes the help of a command if the terminal is narrow, and says whether it did."""
    columns = shutil.get_terminal_size().columns
    if columns >= TABLE_COLUMNS:
        return False
    formatter.write("\n".join(_lines(command, ctx, columns)) + "\n")
    return True


def _lines(command: Any, ctx: Any, columns: int) -> Iterator[str]:
    def wrapped(text: str, first: int, later: int) -> Iterator[str]:
        yield from textwrap.wrap(
            " ".join(text.split()),
            columns - 1,
            initial_indent=" " * first,
            subsequent_indent=" " * later,
            break_long_words=False,
            break_on_hyphens=False,
        )

    yield from wrapped(command.get_usage(ctx), 0, 2)
    for paragraph in (command.help or "").split("\n\n"):
        yield ""
        yield from wrapped(paragraph, 0, 0)
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], "Commands": []}
    for param in command.get_params(ctx):
        if (record := param.get_help_record(ctx)) is not None:
            sections["Arguments" if param.param_type_name == "argument" else "Options"].append(record)
    if isinstance(command, Group):
        for name in command.list_commands(ctx):
            if (found := command.get_command(ctx, name)) is not None:
                sections["Commands"].append((name, found.get_short_help_str(10_000)))
    for title, rows in sections.items():
        if rows:
            yield from ("", f"{title}:")
        for name, text in rows:
            yield from wrapped(name, 2, 4)
            yield from wrapped(text, 6, 6)
