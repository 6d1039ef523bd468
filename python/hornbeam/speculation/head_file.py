"""Files of trained heads: tensors with a format and settings in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.tensor_file import read_tensors

__all__ = [
    "ACCEPTANCE_HEAD",
    "FEATURE_HEAD",
    "check_tensors",
    "counts",
    "matrix_size",
    "path_of",
    "read_head",
]

#: The files of the heads in a folder that ``hornbeam train-head`` wrote.
FEATURE_HEAD, ACCEPTANCE_HEAD = "feature_head.safetensors", "acceptance_head.safetensors"


def path_of(weights: str | PathLike[str] | None, name: str, shipped: str) -> Path:
    """The file of a head.

    Args:
        weights: a file, a folder that ``hornbeam train-head`` wrote, or None.
        name: of the file in such a folder.
        shipped: the file that comes with the package, for None.
    """
    if weights is None:
        return _shipped(shipped)
    path = Path(weights).expanduser()
    return path / name if path.is_dir() else path


@cache
def _shipped(name: str) -> Path:
    """Looked up once: every request asks for it."""
    return Path(str(files("hornbeam") / "heads" / name)).resolve()


def read_head(path: Path, expected: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and settings of a file whose format is ``expected``.

    Raises:
        ArgumentError: there is no such file, or it is another one, or a damaged one.
        MissingExtra: safetensors is not installed.
    """
    tensors, metadata = read_tensors(path, "weights")
    found = metadata.get("format")
    if found != expected:
        raise ArgumentError(f"{path} has the format {found!r}, expected {expected!r}")
    try:
        settings = json.loads(metadata.get("settings", ""))
    except json.JSONDecodeError:
        settings = None
    if not isinstance(settings, dict):
        raise ArgumentError(
            f"{path} has the settings {metadata.get('settings')!r}, expected a JSON object in its metadata"
        )
    return tensors, settings


def counts(path: Path, settings: Mapping[str, Any], *names: str, least: int = 1) -> list[int]:
    """Settings that are whole numbers of ``least`` or more, in the order of ``names``.

    Raises:
        ArgumentError: one is missing, or something else.
    """
    values = [settings.get(name) for name in names]
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ArgumentError(f"{path}: setting {name} is {value!r}, expected an integer from {least} on")
    return [int(value) for value in values if value is not None]


def matrix_size(tensors: Mapping[str, Tensor], name: str, dimension: int) -> int | None:
    """The size of a dimension of a matrix, for :func:`check_tensors` of others; None where there is none."""
    shape = tensors[name].shape if name in tensors else ()
    return int(shape[dimension]) if len(shape) == 2 else None


def check_tensors(
    path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int | None]]
) -> None:
    """Holds the tensors of a file to their names and shapes; None stands for any size.

    Raises:
        ArgumentError: one is missing, there is one too many, or one has another shape.
    """
    missing, surplus = sorted(set(shapes) - set(tensors)), sorted(set(tensors) - set(shapes))
    if missing or surplus:
        raise ArgumentError(f"{path} lacks the tensors {missing}, and has {surplus} beside what is expected")
    for name, shape in shapes.items():
        found = list(tensors[name].shape)
        fits = len(found) == len(shape) and all(
            size in (None, own) for own, size in zip(found, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise ArgumentError(f"{path}: tensor {name} has the shape {found}, expected [{wanted}]")
