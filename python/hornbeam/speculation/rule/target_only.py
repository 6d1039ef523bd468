"""A draw from the target, and descent where a child holds it."""

from __future__ import annotations

from hornbeam.speculation.rule.base import NativeRule

__all__ = ["TargetOnly"]


class TargetOnly(NativeRule):
    """Draws from the target, and descends where a child holds the token (EAGLE-2). Reads no law of the
    draft."""

    name = "target_only"
