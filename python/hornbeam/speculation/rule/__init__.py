"""Verification rules, one a file: a file that is added here is found."""

from __future__ import annotations

from typing import Any

from hornbeam.errors import ArgumentError
from hornbeam.methods import methods_in
from hornbeam.speculation.protocols import Law
from hornbeam.speculation.rule.base import Rule, Verification, Walk

__all__ = ["RULES", "Rule", "Verification", "Walk", "is_ratio_test", "rule_of"]

_FOUND = methods_in(__name__, __path__, lambda found: issubclass(found, Rule))
RULES: dict[str, Rule] = {rule.name: rule() for rule in _FOUND.values()}
"""The rules that come with the package, by name, each with its default parameters."""


def rule_of(verify: Any) -> Rule:
    """The rule that ``verify=`` says.

    Args:
        verify: the name of a rule of the package, or a rule.

    Raises:
        ArgumentError: it is neither the name of a rule nor a :class:`Rule`.
    """
    if isinstance(verify, Rule):
        return verify
    if not isinstance(verify, str) or verify not in RULES:
        names = ", ".join(RULES)
        raise ArgumentError(
            f"verify is {verify!r}, expected the name of a rule ({names}) or a hornbeam.spec.Rule"
        )
    return RULES[verify]


def is_ratio_test(verify: str | Rule, law: Law, is_greedy: bool) -> bool:
    """Whether the rule compares laws for a draft of this law. An argmax has one outcome, and what was chosen
    without chance is accepted where a draw from the target says the same.

    Args:
        verify: a rule, or its name.
        law: how the draft's tokens come about.
        is_greedy: whether the target takes its argmax.
    """
    return bool(rule_of(verify).compares) and law != "deterministic" and not is_greedy
