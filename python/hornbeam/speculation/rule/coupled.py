"""A draw from the target with noise of its own place, so that the text does not depend on the draft."""

from __future__ import annotations

from hornbeam.speculation.rule.base import NativeRule

__all__ = ["Coupled"]


class Coupled(NativeRule):
    """As ``target_only``, with noise keyed by (seed, sequence, position, token): the text is that of
    :func:`hornbeam.ops.sample`, whatever the draft."""

    name = "coupled"
    shares_noise = True
