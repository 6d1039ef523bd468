"""Siblings that were drawn without replacement."""

from __future__ import annotations

from hornbeam.speculation.protocols import Law
from hornbeam.speculation.rule.base import NativeRule

__all__ = ["WithoutReplacement"]


class WithoutReplacement(NativeRule):
    """Recursive rejection over distinct siblings, in the order of drawing (Jeon et al. 2024; Sequoia, Chen
    et al. 2024).

    Independent siblings may be verified as distinct ones: a repeated token is passed over, and given that it
    is new a sibling follows the draft's law without the refused tokens. The converse is biased.
    """

    name = "without_replacement"
    compares = frozenset[Law]({"chain", "with_replacement", "without_replacement"})
