"""Files of trained heads: tensors with a format and settings in the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.tensor_file import read_tensors

__all__ = ["read_head"]


def read_head(path: Path, expected: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and settings of a file whose format is ``expected``.

    Raises:
        ArgumentError: there is no such file, or it is another one.
        MissingExtra: safetensors is not installed.
    """
    tensors, metadata = read_tensors(path, "weights")
    found = metadata.get("format")
    if found != expected:
        raise ArgumentError(f"{path} has the format {found!r}, expected {expected!r}")
    return tensors, json.loads(metadata["settings"])
