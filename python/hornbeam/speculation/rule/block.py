"""Speculative sampling of a chain, decided on the whole chain."""

from __future__ import annotations

from hornbeam.speculation.protocols import Law
from hornbeam.speculation.rule.base import NativeRule

__all__ = ["Block"]


class Block(NativeRule):
    """Block verification (Sun et al. 2024): never accepts less than ``chain`` in expectation."""

    name = "block"
    compares = frozenset[Law]({"chain"})
