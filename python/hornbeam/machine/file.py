"""A profile's file: JSON with a digest of itself, read with care and replaced in one move."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hornbeam.errors import ArgumentError
from hornbeam.machine.choice import PAIRS, Choice
from hornbeam.machine.operation import Operation
from hornbeam.machine.rows import LAST_ROWS, bucket_of

__all__ = ["Contents", "read", "write"]

FORMAT = "hornbeam profile 1"


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        facts: what it is true for, by group (``machine``, ``model``) and name.
        choices: by operation and bucket of rows.
        cost: rows of a forward pass and its seconds.
    """

    facts: Mapping[str, Mapping[str, str]]
    choices: dict[tuple[Operation, int], Choice]
    cost: tuple[tuple[int, float], ...]


def write(path: str | os.PathLike[str], contents: Contents) -> None:
    """Replaces the file by a new one, which is complete whenever it is there.

    Raises:
        OSError: it cannot be written.
    """
    body: dict[str, Any] = {
        "facts": {group: dict(sorted(facts.items())) for group, facts in contents.facts.items()},
        "cost": [list(point) for point in contents.cost],
        "choices": [
            {
                "operation": operation.name,
                "rows": LAST_ROWS[bucket] if bucket < len(LAST_ROWS) else None,
                "kernel": choice.kernel,
                "seconds": choice.seconds,
                "ratios": {name: list(ratios) for name, ratios in choice.ratios.items()},
            }
            for (operation, bucket), choice in sorted(contents.choices.items(), key=lambda item: item[0])
        ],
    }
    text = json.dumps({"format": FORMAT, "digest": _digest(body), **body}, indent=1)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".json", dir=target.parent)
    try:
        with open(handle, "w", encoding="utf-8") as out:
            out.write(text + "\n")
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def read(path: str | os.PathLike[str]) -> Contents:
    """What a file holds.

    Raises:
        ArgumentError: it is damaged, or of another kind.
        OSError: it cannot be read.
    """
    data = Path(path).read_bytes()
    try:
        found = json.loads(data.decode("utf-8"))
    except ValueError as error:
        raise ArgumentError(f"{path} is not a profile: {error}") from error
    kind = found.get("format") if isinstance(found, dict) else None
    if kind != FORMAT:
        raise ArgumentError(f"the format of {path} is {kind!r}, expected {FORMAT!r}")
    body = {name: found.get(name) for name in ("facts", "cost", "choices")}
    if found.get("digest") != _digest(body):
        raise ArgumentError(f"{path} is damaged: its digest is that of other contents")
    try:
        return _contents(body)
    except (ArgumentError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArgumentError(f"{path} is not a profile of this version: {error}") from error


def _contents(body: Mapping[str, Any]) -> Contents:
    facts = {str(group): {str(k): str(v) for k, v in own.items()} for group, own in body["facts"].items()}
    cost = tuple((int(rows), _positive(seconds)) for rows, seconds in body["cost"])
    choices = {}
    for entry in body["choices"]:
        rows, kernel = entry["rows"], entry["kernel"]
        if not isinstance(kernel, str):
            raise ArgumentError(f"a kernel is {kernel!r}, expected a name")
        bucket = len(LAST_ROWS) if rows is None else bucket_of(int(rows))
        ratios = {str(k): deque(map(_positive, v), maxlen=PAIRS) for k, v in entry["ratios"].items()}
        seconds = None if entry["seconds"] is None else _positive(entry["seconds"])
        choices[Operation.of(entry["operation"]), bucket] = Choice(kernel, ratios, seconds)
    return Contents(facts, choices, cost)


def _positive(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number > 0.0):
        raise ArgumentError(f"a time is {value!r}, expected a positive number")
    return number


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
