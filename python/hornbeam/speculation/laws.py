"""Which verification is exact for which draft.

A ratio test compares the target's law with the one that a token was drawn from, so it must be told the
truth about the drawing: a deterministic draft has no such law, siblings drawn independently are not
siblings drawn without replacement, and a token dropped *because* of what was drawn leaves a law that
nobody wrote down (dropping what the draft itself finds unlikely moves a text's law by up to 0.24 in
total variation on a vocabulary of three). Wrong pairs are refused, with the reason.
"""

from __future__ import annotations

from hornbeam.errors import ArgumentError
from hornbeam.speculation.declarations import StopTraits
from hornbeam.speculation.protocols import Law
from hornbeam.speculation.rule import RULES, Rule, rule_of
from hornbeam.speculation.source import Source

__all__ = ["RATIO_TESTS", "check_gate", "check_law", "check_stop"]

RATIO_TESTS = {rule.name: rule.compares for rule in RULES.values() if rule.compares}
"""The laws that each rule that compares laws is exact for, by its name."""


def check_law(law: Law, rule: str | Rule) -> None:
    """Raises ArgumentError unless ``rule`` is exact for drafts of this law (or is lossy by its name)."""
    rule = rule_of(rule)
    if not rule.compares or law == "deterministic" or law in rule.compares:
        return
    rules = [name for name, laws in RATIO_TESTS.items() if law in laws]
    raise ArgumentError(
        f"verify is {rule.name!r} for a draft whose law is {law!r}, expected one of "
        f"{', '.join([*rules, 'target_only', 'coupled'])}: a ratio test is exact only for the law that its "
        "tokens were drawn from"
    )


def check_gate(stop: StopTraits, source: Source) -> None:
    """Raises ArgumentError unless a source asks a stop rule that decides before draws."""
    if not source.takes_gates:
        raise ArgumentError(
            f"length is {stop.name}, which stops a draft before a token is drawn, and draft is "
            f"{source.name}, expected one that draws from logits: SmallModel, LayerSkip or the like"
        )


def check_stop(stop: StopTraits, source: Source, rule: Rule) -> None:
    """Raises ArgumentError if a stop rule would decide on drawn tokens by what was drawn."""
    if stop.is_predictable:
        return
    if not stop.takes_outlines:
        raise ArgumentError(
            f"length is {stop.name}, which looks at drawn tokens, and verify is {rule.name!r}: a ratio test "
            "is biased where a token is dropped for what was drawn; expected a rule that decides before the "
            "draw (Fixed, Entropy), or verify='coupled' or 'target_only'"
        )
    if source.outline is None:
        raise ArgumentError(
            f"length is {stop.name}, and verify is {rule.name!r}, but the draft cannot say before its draws "
            "which tree it will draw; expected length=Fixed(...), or verify='coupled' or 'target_only'"
        )
