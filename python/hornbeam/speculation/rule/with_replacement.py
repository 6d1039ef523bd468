"""Siblings that were drawn independently of each other."""

from __future__ import annotations

from hornbeam.speculation.protocols import Law
from hornbeam.speculation.rule.base import NativeRule

__all__ = ["WithReplacement"]


class WithReplacement(NativeRule):
    """Recursive rejection over independent siblings (SpecInfer, Miao et al. 2024). A chain is a tree of
    single draws."""

    name = "with_replacement"
    compares = frozenset[Law]({"chain", "with_replacement"})
