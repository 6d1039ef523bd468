"""Speculative sampling of a chain."""

from __future__ import annotations

from hornbeam.speculation.protocols import Law
from hornbeam.speculation.rule.base import NativeRule

__all__ = ["Chain"]


class Chain(NativeRule):
    """Accepts a drawn token as often as the ratio of the laws allows (Leviathan et al. 2023; Chen et al.
    2023)."""

    name = "chain"
    compares = frozenset[Law]({"chain"})
