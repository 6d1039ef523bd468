"""Files of tensors: safetensors, and nothing that could run code."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from torch import Tensor

from hornbeam.errors import ArgumentError, InternalError, MissingExtra
from hornbeam.whole_file import replace_file

__all__ = ["read_tensors", "replace_tensors", "write_tensors"]


def read_tensors(path: str | PathLike[str], what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file by name, and its metadata; ``what`` names the argument in messages.

    Raises:
        ArgumentError: there is no such file, or it is of another kind.
        MissingExtra: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtra(f"{what} needs safetensors: pip install 'hornbeam[hf]'") from error
    if not Path(path).is_file():
        raise ArgumentError(f"{what} is {path}, expected a safetensors file")
    try:
        with safe_open(path, "pt") as data:
            tensors = {name: data.get_tensor(name) for name in data.keys()}  # noqa: SIM118
            return tensors, data.metadata() or {}
    except SafetensorError as error:
        raise ArgumentError(f"{path} is not a safetensors file: {error}") from error


def write_tensors(
    path: str | PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors by name, and metadata: the same bytes each time. Who may read the file is what ``open``
    would make it.

    Raises:
        MissingExtra: safetensors is not installed.
        OSError: the file cannot be written.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingExtra("writing tensors needs safetensors: pip install 'hornbeam[hf]'") from error
    # safetensors makes a file that its owner alone may read.
    with open(path, "ab"):
        mode = stat.S_IMODE(os.stat(path).st_mode)
    save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    os.chmod(path, mode)
    _order_metadata(path)


def replace_tensors(
    path: str | PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """As :func:`write_tensors`, whole or not at all: see :func:`hornbeam.whole_file.replace_file`.

    Raises:
        MissingExtra: safetensors is not installed.
        OSError: the file cannot be written.
    """
    replace_file(Path(path), lambda partial: write_tensors(partial, tensors, metadata))


def _order_metadata(path: str | PathLike[str]) -> None:
    """Sorts the metadata of a file in place: safetensors writes it in another order each time.

    The header is the length of some JSON, in eight bytes, and the JSON, with spaces at its end.
    """
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > size:
            raise InternalError(
                f"the header of {path} has {size} bytes, and {len(text)} with sorted metadata"
            )
        file.seek(8)
        file.write(text.ljust(size))
