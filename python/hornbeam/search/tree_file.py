"""Files of searches: safetensors and JSON, of a named kind and version, with a checksum, written whole or not
at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.tensor_file import read_tensors, replace_tensors
from hornbeam.whole_file import replace_text

__all__ = ["read_json", "read_tree", "write_json", "write_tree"]

VERSION = 1
"""Of all files that are written here. A reader refuses those of a later one."""


def write_tree(path: Path, kind: str, tensors: Mapping[str, Tensor], data: Any) -> str:
    """Writes tensors, and ``data`` as JSON; returns their checksum."""
    own = {name: tensor.contiguous() for name, tensor in tensors.items()}
    text = json.dumps(data)
    checksum = _checksum(kind, own, text)
    metadata = {"format": kind, "version": str(VERSION), "data": text, "checksum": checksum}
    replace_tensors(path, own, metadata)
    return checksum


def read_tree(path: Path, kind: str, what: str) -> tuple[dict[str, Tensor], Any, str]:
    """Tensors, data and checksum of a file that :func:`write_tree` wrote. ``what`` names the argument in
    messages.

    Raises:
        ArgumentError: it is another kind of file, of a later version, or damaged.
    """
    tensors, metadata = read_tensors(path, what)
    _check_kind(path, metadata, kind)
    text = metadata.get("data", "")
    if metadata.get("checksum") != _checksum(kind, tensors, text):
        raise ArgumentError(f"{path} is damaged: its checksum is that of other contents")
    return tensors, json.loads(text), metadata["checksum"]


def write_json(path: Path, kind: str, data: Mapping[str, Any]) -> None:
    """Writes ``data`` as JSON."""
    whole = {"format": kind, "version": VERSION, "checksum": _checksum(kind, {}, json.dumps(data)), **data}
    replace_text(path, json.dumps(whole, indent=1))


def read_json(path: Path, kind: str) -> dict[str, Any]:
    """What :func:`write_json` wrote.

    Raises:
        ArgumentError: it is another kind of file, of a later version, or damaged.
    """
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ArgumentError(f"{path} is damaged, or no {kind}: {error}") from error
    if not isinstance(found, dict):
        raise ArgumentError(f"{path} is no {kind}: it holds a {type(found).__name__}, expected an object")
    _check_kind(path, found, kind)
    checksum = found.get("checksum")
    data = {name: value for name, value in found.items() if name not in ("format", "version", "checksum")}
    if checksum != _checksum(kind, {}, json.dumps(data)):
        raise ArgumentError(f"{path} is damaged: its checksum is that of other contents")
    return data


def _check_kind(path: Path, found: Mapping[str, Any], kind: str) -> None:
    if found.get("format") != kind:
        raise ArgumentError(f"{path} is no {kind}: its format is {found.get('format')!r}")
    version = str(found.get("version"))
    if not version.isdecimal() or not 1 <= int(version) <= VERSION:
        raise ArgumentError(
            f"{path} is a {kind} of version {version}, expected 1 to {VERSION}: a later hornbeam wrote it"
        )


def _checksum(kind: str, tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(f"{kind}\n{text}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
