"""Files of trained heads: safetensors with a format and settings in the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from hornbeam.errors import ArgumentError, MissingExtra

__all__ = ["read_head"]


def read_head(path: Path, expected: str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and settings of a file whose format is ``expected``; ``kind`` names such heads in messages.

    Raises:
        ArgumentError: there is no such file, or it is another one.
        MissingExtra: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtra(f"{kind} heads need safetensors: pip install 'hornbeam[hf]'") from error
    if not path.is_file():
        raise ArgumentError(f"weights is {path}, expected a safetensors file")
    try:
        with safe_open(path, "pt") as data:
            metadata = data.metadata() or {}
            tensors = {name: data.get_tensor(name) for name in data.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ArgumentError(f"{path} is not a safetensors file: {error}") from error
    found = metadata.get("format")
    if found != expected:
        raise ArgumentError(f"{path} has the format {found!r}, expected {expected!r}")
    return tensors, json.loads(metadata["settings"])
