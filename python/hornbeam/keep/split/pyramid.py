"""PyramidKV: budgets that fall over the layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hornbeam.keep.split.base import Split

__all__ = ["Pyramid"]


@dataclass(frozen=True)
class Pyramid(Split):
    """Budgets fall linearly from the first layer to the last, which gets ``1/beta`` of the mean, beyond what
    is protected. PyramidKV (arXiv 2406.02069). A layer whose share exceeds the sequence leaves the excess
    to the others. With ``slope="fitted"``, as in kvpress, the pyramid is built on the whole budget; its slope
    is taken anew where the first layer's share exceeds what it holds beside the protected tokens, and all
    layers get the same where the last layer's share would not hold these then.

    Args:
        beta: the last layer gets ``1 / beta`` of the mean.
        slope: ``"fixed"`` or ``"fitted"``, see above.
    """

    native: ClassVar[str] = "pyramid"
    beta: int = 20
    slope: Literal["fixed", "fitted"] = "fixed"
