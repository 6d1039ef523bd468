"""Files of text: UTF-8, or an error that says where it is not."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from hornbeam.errors import ArgumentError

__all__ = ["decoded", "read_text", "texts_in"]


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file, its line ends as ``\\n``.

    Raises:
        ArgumentError: it is not UTF-8; the message names the file and its first byte that does not fit.
        OSError: it cannot be read.
    """
    return decoded(Path(path).read_bytes(), str(path))


def decoded(data: bytes, name: str) -> str:
    """The text of some bytes, its line ends as ``\\n``; ``name`` says in messages where they are from.

    Raises:
        ArgumentError: they are not UTF-8.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(
            f"{name} is not text in UTF-8: byte {error.start} is 0x{data[error.start]:02x}"
        ) from None
    return io.StringIO(text, newline=None).read()


def texts_in(
    paths: Iterable[str | os.PathLike[str]], skipped: Callable[[Path], Any] | None = None
) -> Iterator[tuple[Path, str]]:
    """Files of text, each with its text, its line ends as ``\\n``.

    A folder stands for the text files in it and below it, in alphabetical order. Left out are what is hidden
    there (its name begins with a dot, as that of ``.git``), links to folders, and files that are no text:
    text is UTF-8 without a zero byte. A file that is named must be text.

    Args:
        paths: files and folders.
        skipped: called as ``skipped(path)`` for each file or folder within a folder that is left out.

    Raises:
        ArgumentError: a file that is named is no text.
        OSError: a file cannot be read.
    """
    for file, is_named in _candidates(map(Path, paths)):
        text = _document(file) if is_named else _document_if_text(file)
        if text is not None:
            yield file, text
        elif skipped is not None:
            skipped(file)


def _candidates(paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """All files, those below folders in alphabetical order and with folders that are not looked into; and
    whether each was named."""
    for path in paths:
        if path.is_dir():
            for below in sorted(path.iterdir()):
                if below.is_dir() and not _is_left_out(below):
                    yield from ((file, False) for file, _ in _candidates([below]))
                else:
                    yield below, False
        else:
            yield path, True


def _is_left_out(path: Path) -> bool:
    """Whether something within a folder is not looked into: it is hidden, or no ordinary file or folder."""
    is_ordinary = path.is_file() or (path.is_dir() and not path.is_symlink())
    return path.name.startswith(".") or not is_ordinary


def _document_if_text(path: Path) -> str | None:
    """The text of a file within a folder, or None if it is left out."""
    if _is_left_out(path):
        return None
    try:
        return _document(path)
    except ArgumentError:
        return None


def _document(file: Path) -> str:
    """The text of a file.

    Raises:
        ArgumentError: it is not UTF-8, or has a zero byte, which no text has.
    """
    data = file.read_bytes()
    text = decoded(data, str(file))
    if b"\0" in data:
        raise ArgumentError(f"{file} is not text: byte {data.index(0)} is 0x00")
    return text
