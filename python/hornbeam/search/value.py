"""What a path is worth."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hornbeam.errors import ArgumentError
from hornbeam.search.path import Path

__all__ = ["Likelihood", "values_of"]


@dataclass(frozen=True)
class Likelihood:
    """The model's own mean log-probability of the answer's tokens.

    Attributes:
        as_probability: its exponential instead, from 0 to 1, which :class:`hornbeam.search.AStar` and
            :class:`hornbeam.search.ParticleFilter` want.
    """

    as_probability: bool = False

    def __call__(self, paths: Sequence[Path]) -> list[float]:
        """One number a path."""
        means = [sum(path.logprobs) / max(len(path.logprobs), 1) for path in paths]
        return [math.exp(mean) for mean in means] if self.as_probability else means


def values_of(value: Any, paths: Sequence[Path]) -> list[float]:
    """What ``value`` says of the paths.

    Raises:
        ArgumentError: it gave not one finite number a path.
    """
    found = value(paths)
    if hasattr(found, "tolist"):
        found = found.tolist()
    if not isinstance(found, (list, tuple)) or len(found) != len(paths):
        got = f"{len(found)} values" if isinstance(found, (list, tuple)) else repr(found)
        raise ArgumentError(f"value gave {got} for {len(paths)} paths, expected one number a path")
    for one in found:
        if isinstance(one, bool) or not isinstance(one, (int, float)) or not abs(one) <= sys.float_info.max:
            raise ArgumentError(f"value gave {one!r} for a path, expected a finite number")
    return [float(one) for one in found]
