"""Draft sources by name: ``draft="suffix"`` is ``draft=hb.spec.Suffix()``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hornbeam.errors import ArgumentError
from hornbeam.speculation.declarations import is_source, is_stop_rule
from hornbeam.speculation.draft.auto import Auto
from hornbeam.speculation.draft.feature_head import FeatureHead
from hornbeam.speculation.draft.ngram import NGram
from hornbeam.speculation.draft.suffix import Suffix
from hornbeam.speculation.draft.token_recycling import TokenRecycling

__all__ = ["NAMED_DRAFTS", "draft_of", "stop_rule_of"]

NAMED_DRAFTS: dict[str, Callable[..., Any]] = {
    "auto": Auto,
    "suffix": Suffix,
    "ngram": NGram,
    "recycling": TokenRecycling,
    "head": FeatureHead,
}
"""The sources that need no argument."""


def draft_of(given: Any) -> Any:
    """The draft source that ``draft=`` says: itself, the one of a name, or None.

    Raises:
        ArgumentError: it is not a draft source.
    """
    if given is None or given == "none":
        return None
    names = ", ".join(f'"{name}"' for name in NAMED_DRAFTS)
    expected = f"a source of hornbeam.spec such as hb.spec.Suffix(), one of {names}, or None"
    if isinstance(given, str):
        if given not in NAMED_DRAFTS:
            raise ArgumentError(f"draft is {given!r}, expected {expected}")
        return NAMED_DRAFTS[given]()
    if isinstance(given, dict):
        raise ArgumentError(
            "draft is a dict, expected a source; a recipe of hornbeam.recipes is given as "
            "lm.generate(prompt, **recipe)"
        )
    if not is_source(given):
        raise ArgumentError(f"draft is {given!r}, expected {expected}")
    return given


def stop_rule_of(given: Any) -> Any:
    """What ``length=`` says.

    Raises:
        ArgumentError: it is no stop rule.
    """
    if isinstance(given, type) or not is_stop_rule(given):
        raise ArgumentError(
            f"length is {given!r}, expected a stop rule of hornbeam.spec such as hb.spec.MeasuredGain() or "
            "hb.spec.Fixed(4)"
        )
    return given
