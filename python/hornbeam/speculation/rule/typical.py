"""Acceptance of what is typical enough of the target: lossy."""

from __future__ import annotations

from dataclasses import dataclass

from hornbeam.speculation.rule.base import NativeRule

__all__ = ["Typical"]


@dataclass(frozen=True)
class Typical(NativeRule):
    """Medusa's typical acceptance (Cai et al. 2024). **Lossy**: the text does not keep the target's law.

    Args:
        epsilon: a token at least so probable is always accepted.
        alpha: factor of ``exp(-entropy)``, the other bound.

    Raises:
        ArgumentError: from verification, if one of them is outside of its range.
    """

    name = "typical"
    is_exact = False

    epsilon: float = 0.3
    alpha: float = 0.09

    def parameters(self) -> dict[str, float]:
        """Both."""
        return {"epsilon": self.epsilon, "alpha": self.alpha}
