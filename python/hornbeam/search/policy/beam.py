"""Beam search over tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.search.policy.base import TokenPolicy

__all__ = ["Beam"]


@dataclass(frozen=True)
class Beam(TokenPolicy):
    """Beam search over tokens, by the rules of transformers' ``num_beams=``: the same texts and scores, up to
    the floating-point noise of the forward pass."""

    name: ClassVar[str] = "beam"
