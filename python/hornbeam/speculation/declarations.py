"""What draft sources, proposals and stop rules say about themselves.

Any class with the methods of :mod:`hornbeam.speculation.protocols` will do, and may leave out what is
optional there. This file knows the value of what is left out; nobody else asks whether an attribute exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hornbeam.speculation.protocols import Drafted, Law

if TYPE_CHECKING:
    from hornbeam.speculation.protocols import HasEngine

__all__ = [
    "StopTraits",
    "is_self_paced",
    "is_source",
    "is_stop_rule",
    "law_of",
    "lms_of",
    "logits_of",
    "origin_of",
    "parents_of",
]


def is_source(draft: Any) -> bool:
    """Whether it is a draft source, of either kind, and not the class of one."""
    return not isinstance(draft, type) and (hasattr(draft, "open") or hasattr(draft, "start"))


def is_stop_rule(rule: Any) -> bool:
    """Whether it is a stop rule, and not the class of one."""
    return not isinstance(rule, type) and hasattr(rule, "needs_costs")


def lms_of(draft: Any) -> tuple[HasEngine, ...]:
    """The models that a draft source uses beside the target."""
    found: tuple[HasEngine, ...] = getattr(draft, "lms", ())
    return found


def is_self_paced(draft: Any) -> bool:
    """Whether a draft source decides by itself where it is worth its seconds."""
    return bool(getattr(draft, "is_self_paced", False))


def law_of(source: Any) -> Law:
    """The law that a draft source, or a shape, declares."""
    law: Law = getattr(source, "law", "deterministic")
    return law


def parents_of(proposal: Drafted) -> Sequence[int] | None:
    """The parents of a proposal's tokens; None for a chain."""
    parents: Sequence[int] | None = getattr(proposal, "parents", None)
    return parents


def logits_of(proposal: Drafted) -> Tensor | None:
    """The logits ``[1 + len(tokens), V]`` that a proposal's tokens were drawn from, if it brings them."""
    logits: Tensor | None = getattr(proposal, "logits", None)
    return logits


def origin_of(proposal: Drafted) -> Sequence[int] | None:
    """Of the part of a proposal: each token's index in the whole. None for a whole one."""
    origin: Sequence[int] | None = getattr(proposal, "origin", None)
    return origin


@dataclass(frozen=True)
class StopTraits:
    """What a stop rule declares; see :class:`hornbeam.speculation.StopRule`."""

    name: str
    needs_costs: bool
    is_predictable: bool
    takes_outlines: bool
    is_gate: bool

    @classmethod
    def of(cls, rule: Any) -> StopTraits:
        """Those of a rule."""
        optional = ("is_predictable", "takes_outlines", "is_gate")
        given = {name: bool(getattr(rule, name, False)) for name in optional}
        return cls(type(rule).__name__, bool(rule.needs_costs), **given)
