"""Which of the finished paths is the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any

from hornbeam.errors import ArgumentError
from hornbeam.search.path import Answer, Path

__all__ = ["answers", "best", "majority", "weighted"]


def answers(paths: Sequence[Path]) -> list[Answer]:
    """The answers of finished paths: the most votes first, then the greatest sum of values, then the first
    found.

    Args:
        paths: finished ones.
    """
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.answer if path.answer is not None else path.text.strip(), []).append(path)
    found = [
        Answer(text, len(own), sum(path.value or 0.0 for path in own), _greatest(own))
        for text, own in groups.items()
    ]
    return sorted(found, key=lambda answer: (-answer.votes, -answer.value))


def best(paths: Sequence[Path]) -> Path | None:
    """The finished path of greatest value; of equal ones the first.

    Args:
        paths: finished ones.
    """
    return _greatest(paths) if paths else None


def majority(paths: Sequence[Path]) -> Path | None:
    """The best path of the answer that most paths gave; of equal ones that of the greatest sum of values.

    Args:
        paths: finished ones.
    """
    found = answers(paths)
    return found[0].best if found else None


def weighted(paths: Sequence[Path]) -> Path | None:
    """The best path of the answer whose paths' values sum to most. For values that are not negative.

    Args:
        paths: finished ones.
    """
    found = answers(paths)
    return max(found, key=lambda answer: answer.value).best if found else None


def chosen(
    select: Callable[[Sequence[Path]], Any], finished: Sequence[Path], otherwise: Path | None
) -> tuple[Path | None, Exception | None]:
    """What ``select`` makes of the finished paths, and what went wrong with it; where there are none, or it
    fails, it is ``otherwise``."""
    if not finished:
        return otherwise, None
    try:
        found = select(finished)
        if not isinstance(found, (Path, NoneType)):
            raise ArgumentError(f"select gave {found!r}, expected a path or None")
    except Exception as raised:
        return otherwise, raised
    return found, None


def _greatest(paths: Sequence[Path]) -> Path:
    return max(paths, key=lambda path: (path.value if path.value is not None else float("-inf"), -path.node))
