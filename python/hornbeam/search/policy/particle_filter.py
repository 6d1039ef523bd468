"""Particle filtering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam import _native
from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number
from hornbeam.search.policy.base import NativeSearch, Policy, Search

__all__ = ["ParticleFilter"]


@dataclass(frozen=True)
class ParticleFilter(Policy):
    """After every step ``width`` paths are drawn anew, by the softmax of the logit of their last value over
    ``balance`` (Puri et al. 2025, arXiv 2502.01618). Paths that have ended are drawn too, and keep their
    value. Values are from 0 to 1.

    Attributes:
        width: particles.
        balance: the temperature of the draws.
    """

    name: ClassVar[str] = "particle_filter"
    wants_probability: ClassVar[bool] = True

    temperature: float = 0.8
    width: int = 16
    balance: float = 1.0

    def open(self, seed: int) -> Search:
        """Begins a search."""
        if not 0 < self.balance < float("inf"):
            raise ArgumentError(f"balance is {self.balance}, expected a positive number")
        width = whole_number(self.width, "width", 1)
        return NativeSearch(_native.SearchPolicy.particles(width, self.max_depth, self.balance, seed))
