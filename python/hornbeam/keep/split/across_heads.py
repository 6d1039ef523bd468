"""AdaKV: the heads of a layer compete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hornbeam.keep.split.base import Split

__all__ = ["AcrossHeads"]


@dataclass(frozen=True)
class AcrossHeads(Split):
    """Heads of a layer compete for its equal share by score; ``alpha`` is the safeguard. AdaKV (arXiv
    2407.11550). "mix" blends the outcome with equal shares, as the authors' code does;
    "reserve" sets the top ``alpha`` of an equal share aside for every head, as kvpress does.

    Args:
        alpha: the share of an equal budget that every head is sure of, 0 to 1.
        blend: ``"mix"`` or ``"reserve"``, see above.
    """

    native: ClassVar[str] = "across_heads"
    alpha: float = 0.2
    blend: Literal["mix", "reserve"] = "mix"
