"""SpecDec++ (Huang et al. 2024): the network of the head, and when a chain ends (section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray


def predict(weights: dict[str, NDArray[np.float64]], state: NDArray[np.float64], blocks: int) -> float:
    """The probability that the token last read is accepted: residual blocks ``x + silu(W x + b)`` on the
    normalised state in a narrower width, then a logistic unit."""
    x = weights["in.weight"] @ (state / sqrt(np.mean(state**2) + 1e-5))
    for block in range(blocks):
        z = weights[f"{block}.weight"] @ x + weights[f"{block}.bias"]
        x = x + z / (1 + np.exp(-z))
    return float(1 / (1 + np.exp(-(weights["out.weight"] @ x + weights["out.bias"])[0])))


def goes_on(acceptances: Sequence[float], threshold: float, least: int) -> bool:
    """Whether a token is drawn after tokens that are accepted with these probabilities, each if those before
    it are: the chance that one of them is refused must not exceed the threshold."""
    survival = 1.0
    for acceptance in acceptances:
        survival *= acceptance
    return len(acceptances) < least or 1 - survival <= threshold
