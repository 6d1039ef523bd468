"""Files of text: UTF-8, or an error that says where it is not."""

from __future__ import annotations

import io
import os
from pathlib import Path

from hornbeam.errors import ArgumentError

__all__ = ["decoded", "read_text"]


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
