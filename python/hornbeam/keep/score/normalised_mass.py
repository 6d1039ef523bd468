"""ZipCache: attention mass by the number of rows that see the key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.keep.score.base import Score

__all__ = ["NormalisedMass"]


@dataclass(frozen=True)
class NormalisedMass(Score):
    """Probability over probe rows divided by the number of probes that could see the key. Probes are the
    last ``recent`` of rows and ``random`` of rows drawn from the others, without replacement. ZipCache
    (arXiv 2405.14256); its released code divides by the number of tokens after the key and
    draws with replacement.

    Args:
        recent: the share of rows, the last ones, that are probes.
        random: the share of rows, drawn from the others, that are probes.
        seed: of the draw.
    """

    native: ClassVar[str] = "normalised_mass"
    recent: float = 0.05
    random: float = 0.05
    seed: int = 0
