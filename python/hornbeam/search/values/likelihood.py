"""The model's own likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hornbeam.search.path import Path
from hornbeam.search.values.base import Value

__all__ = ["Likelihood"]


@dataclass(frozen=True)
class Likelihood(Value):
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
