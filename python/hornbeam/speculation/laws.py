"""Which verification is exact for which draft.

A ratio test compares the target's law with the one that a token was drawn from, so it must be told the
truth about the drawing: a deterministic draft has no such law, siblings drawn independently are not
siblings drawn without replacement, and a token dropped *because* of what was drawn leaves a law that
nobody wrote down (dropping what the draft itself finds unlikely moves a text's law by up to 0.24 in
total variation on a vocabulary of three). Wrong pairs are refused, with the reason.
"""

from __future__ import annotations

from typing import Any

from hornbeam.errors import ArgumentError
from hornbeam.speculation.protocols import Law

__all__ = ["RATIO_TESTS", "check_gate", "check_law", "check_stop", "is_ratio_test", "law_of"]

# The laws that each ratio test is exact for. A chain is a tree of single draws. Independent siblings
# may be verified as distinct ones: a repeated token is passed over, and given that it is new a sibling
# follows the draft's law without the refused tokens. The converse is biased.
RATIO_TESTS: dict[str, frozenset[Law]] = {
    "chain": frozenset({"chain"}),
    "block": frozenset({"chain"}),
    "with_replacement": frozenset({"chain", "with_replacement"}),
    "without_replacement": frozenset({"chain", "with_replacement", "without_replacement"}),
}


def law_of(source: Any) -> Law:
    """The law that a draft source, or a shape, declares."""
    law: Law = getattr(source, "law", "deterministic")
    return law


def is_ratio_test(rule: str, law: Law, is_greedy: bool) -> bool:
    """Whether ``rule`` compares laws for such a draft. An argmax has one outcome, and what was chosen
    without chance is accepted where a draw from the target says the same."""
    return rule in RATIO_TESTS and law != "deterministic" and not is_greedy


def check_law(law: Law, rule: str) -> None:
    """Raises ArgumentError unless ``rule`` is exact for drafts of this law (or is lossy by its name)."""
    expected = RATIO_TESTS.get(rule)
    if expected is None or law == "deterministic" or law in expected:
        return
    rules = [name for name, laws in RATIO_TESTS.items() if law in laws]
    raise ArgumentError(
        f"verify is {rule!r} for a draft whose law is {law!r}, expected one of "
        f"{', '.join([*rules, 'target_only', 'coupled'])}: a ratio test is exact only for the law that its "
        "tokens were drawn from"
    )


def check_gate(stop: Any, source: Any, proposer: Any) -> None:
    """Raises ArgumentError unless a proposer asks a stop rule that decides before draws."""
    if not getattr(proposer, "takes_gates", False):
        raise ArgumentError(
            f"length is {type(stop).__name__}, which stops a draft before a token is drawn, and draft is "
            f"{type(source).__name__}, expected one that draws from logits: SmallModel, LayerSkip or the like"
        )


def check_stop(stop: Any, source: Any, rule: str) -> None:
    """Raises ArgumentError if a stop rule would decide on drawn tokens by what was drawn."""
    if getattr(stop, "is_predictable", False):
        return
    name = type(stop).__name__
    if not getattr(stop, "takes_outlines", False):
        raise ArgumentError(
            f"length is {name}, which looks at drawn tokens, and verify is {rule!r}: a ratio test is biased "
            "where a token is dropped for what was drawn; expected a rule that decides before the draw "
            "(Fixed, Entropy), or verify='coupled' or 'target_only'"
        )
    if not hasattr(source, "outline"):
        raise ArgumentError(
            f"length is {name}, and verify is {rule!r}, but the draft cannot say before its draws which tree "
            "it will draw; expected length=Fixed(...), or verify='coupled' or 'target_only'"
        )
