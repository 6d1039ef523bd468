"""What draft sources, their proposers and drafters, proposals and stop rules say about themselves.

Any class with the methods of :mod:`hornbeam.speculation.protocols` will do, and may leave out what is
optional there. This file knows the value of what is left out; nobody else asks whether an attribute exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hornbeam.speculation.protocols import Ask, Drafted, Drafter, Law, Proposer

if TYPE_CHECKING:
    from hornbeam.speculation.protocols import HasEngine

__all__ = [
    "ProposerTraits",
    "StopTraits",
    "depends_on_length",
    "fork_of",
    "is_draft",
    "is_self_paced",
    "is_shape",
    "is_source",
    "is_stop_rule",
    "law_of",
    "lms_of",
    "logits_of",
    "opens_runs",
    "origin_of",
    "parents_of",
    "takes_prediction",
]


def is_source(draft: Any) -> bool:
    """Whether it is a draft source, of either kind, and not the class of one."""
    return not isinstance(draft, type) and (hasattr(draft, "open") or hasattr(draft, "start"))


def opens_runs(draft: Any) -> bool:
    """Whether a draft source, or its class, drafts for all sequences of a run at once."""
    return hasattr(draft, "open")


def is_draft(found: type[Any]) -> bool:
    """Whether a class is a draft source. What it opens for a run starts sequences too, and ends them."""
    return opens_runs(found) or (hasattr(found, "start") and not hasattr(found, "finish"))


def is_shape(found: type[Any]) -> bool:
    """Whether a class is a shape of draft trees."""
    return hasattr(found, "grow")


def is_stop_rule(found: type[Any]) -> bool:
    """Whether a class, or an object of it, is a stop rule, and not what it starts for a run."""
    return hasattr(found, "start") and hasattr(found, "needs_costs")


def lms_of(draft: Any) -> tuple[HasEngine, ...]:
    """The models that a draft source uses beside the target."""
    found: tuple[HasEngine, ...] = getattr(draft, "lms", ())
    return found


def is_self_paced(draft: Any) -> bool:
    """Whether a draft source decides by itself where it is worth its seconds."""
    return bool(getattr(draft, "is_self_paced", False))


def depends_on_length(draft: Any) -> bool:
    """Whether what a draft source takes, beside what a step takes, depends on the length of the text."""
    return bool(getattr(draft, "depends_on_length", False))


def takes_prediction(draft: Any) -> bool:
    """Whether a draft source draws on what somebody expects a text to be."""
    return bool(getattr(draft, "takes_prediction", False))


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


def fork_of(drafter: Drafter) -> Callable[[], Drafter] | None:
    """What begins a second drafter where one is, if it can."""
    fork: Callable[[], Drafter] | None = getattr(drafter, "fork", None)
    return fork


@dataclass(frozen=True)
class ProposerTraits:
    """What a proposer declares and offers, see :class:`hornbeam.speculation.BatchDraft`; None for what it
    leaves out."""

    law: Law
    hidden_layers: tuple[int, ...]
    takes_gates: bool
    outline: Callable[[Ask], Drafted | None] | None
    reuse: Callable[[Sequence[Sequence[int]]], Any] | None
    credit: Callable[[float], None] | None
    arrears: Callable[[int], float] | None
    kind_of: Callable[[int, Sequence[int]], str] | None
    fork: Callable[[int, int], bool] | None

    @classmethod
    def of(cls, proposer: Proposer) -> ProposerTraits:
        """Those of a proposer."""
        optional = ("outline", "reuse", "credit", "arrears", "kind_of", "fork")
        given: dict[str, Any] = {name: getattr(proposer, name, None) for name in optional}
        takes_gates = bool(getattr(proposer, "takes_gates", False))
        return cls(law_of(proposer), tuple(proposer.hidden_layers), takes_gates, **given)


@dataclass(frozen=True)
class StopTraits:
    """What a stop rule declares; see :class:`hornbeam.speculation.StopRule`."""

    name: str
    needs_costs: bool
    is_predictable: bool
    takes_outlines: bool
    is_gate: bool
    sees_others: bool

    @classmethod
    def of(cls, rule: Any) -> StopTraits:
        """Those of a rule."""
        optional = ("is_predictable", "takes_outlines", "is_gate", "sees_others")
        given = {name: bool(getattr(rule, name, False)) for name in optional}
        return cls(type(rule).__name__, bool(rule.needs_costs), **given)
