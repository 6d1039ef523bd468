"""Small laws, and the chi-square test that the adapters' draws are held to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor


def laws(*shape: int, seed: int = 0, zeros: bool = True) -> Tensor:
    """Normalised rows of the last dimension, some entries exactly zero."""
    generator = torch.Generator().manual_seed(seed)
    mass = torch.rand(shape, generator=generator) + 0.05
    if zeros:
        mass[..., 0] = 0
    return mass / mass.sum(-1, keepdim=True)


def outlying(outcomes: Iterable[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """How many standard deviations Pearson's statistic lies above its mean; 5 is beyond chance.

    Outcomes without expected mass are an error of their own.
    """
    counts = Counter(outcomes)
    total = sum(counts.values())
    impossible = {outcome for outcome in counts if expected.get(outcome, 0) <= 0}
    assert not impossible, f"drawn without mass: {sorted(impossible)[:3]}"
    statistic, cells = 0.0, 0
    for outcome, mass in expected.items():
        if mass > 0:
            statistic += (counts[outcome] - mass * total) ** 2 / (mass * total)
            cells += 1
    return (statistic - (cells - 1)) / math.sqrt(2 * max(cells - 1, 1))
