"""AdaEDL (Agrawal et al. 2024) by its formulas: when a draft goes on, and how its threshold moves."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt


def bound(law: Sequence[float], gamma: float) -> float:
    """The estimate from below of the probability that a draw from ``law`` is accepted."""
    entropy = -sum(p * log(p) for p in law if p > 0)
    return 1 - sqrt(gamma * max(entropy, 0.0))


def thresholds(
    shares: Sequence[float], begin: float, aim: float, step: float, beta1: float, beta2: float
) -> list[float]:
    """The threshold after each round of which a share of the drafted tokens was accepted (Zhang et al. 2023,
    "Draft & Verify", on the adaptive exit): ``A <- beta1 A + (1 - beta1) share``, then with weight 1 - beta2
    towards ``threshold + step`` if A falls short of the aim, else ``threshold - step``."""
    found, threshold, average = [], begin, None
    for share in shares:
        average = share if average is None else beta1 * average + (1 - beta1) * share
        target = threshold + step if average < aim else threshold - step
        threshold = beta2 * threshold + (1 - beta2) * target
        found.append(threshold)
    return found
