"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["PARTIAL", "replace_file", "replace_text"]

PARTIAL = ".partial"
"""What the name of a file ends with until it is whole."""


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Puts what ``write`` writes in the place of a file, if there is one: at every moment, whatever ends the
    process or the machine, ``path`` is what it was or what it is to be.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        write(partial)
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def replace_text(path: Path, text: str) -> None:
    """As :func:`replace_file`, by a text in UTF-8.

    Raises:
        OSError: it cannot be written.
    """

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    replace_file(path, write)


def _sync_folder(folder: Path) -> None:
    """Makes a new name in a folder last; Windows has no handles of folders, and does it by itself."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
