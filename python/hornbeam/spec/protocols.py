"""What a draft source and a stop rule owe the driver. Any class with these methods will do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from hornbeam._native import CostCurve, Signals

__all__ = ["Draft", "Drafted", "Drafter", "Stop", "StopRule", "as_ids"]


def as_ids(token_ids: int | Sequence[int]) -> Sequence[int]:
    """Token ids as a sequence of ints: one id, a sequence, or a tensor or array of one dimension."""
    if isinstance(token_ids, int):
        return (token_ids,)
    convert = getattr(token_ids, "tolist", None)
    return token_ids if convert is None else convert()


class Drafted(Protocol):
    """A chain of guessed tokens."""

    @property
    def tokens(self) -> list[int]:
        """Token ids, first one next."""

    @property
    def signals(self) -> Signals:
        """One item a token: what the source knows about it."""


class Drafter(Protocol):
    """A draft source at work on one sequence."""

    def extend(self, token_ids: Sequence[int]) -> None:
        """Appends tokens that were committed. Called once for every committed token, in order."""

    def propose(self, pending: int | Sequence[int], max_length: int) -> Drafted:
        """Guesses at most ``max_length`` tokens after the committed text and ``pending``.

        ``pending`` is what is certain but not committed yet: the token sampled last, or several.
        They are not remembered: :meth:`extend` brings them later.
        """


class Draft(Protocol):
    """A draft source as a value: its settings."""

    def start(self, prompt_ids: Sequence[int]) -> Drafter:
        """Begins a sequence with its prompt as committed text."""


class Stop(Protocol):
    """A stop rule at work in one run."""

    def choose(self, proposals: Sequence[Drafted]) -> list[int]:
        """How many tokens of each proposal the next step verifies; 0 is a plain step."""

    def observe(
        self,
        proposals: Sequence[Drafted],
        lengths: Sequence[int],
        accepted: Sequence[int],
        next_tokens: Sequence[int] | None = None,
    ) -> None:
        """Records the outcome of a step; everything has one item a sequence.

        ``accepted`` counts kept draft tokens, and ``next_tokens`` are the tokens that the target
        gave after them. With the latter a rule can judge the first token that it did *not* verify,
        so that trying drafts costs nothing; leave them out only where they are unknown.
        """


class StopRule(Protocol):
    """A stop rule as a value: its settings."""

    needs_costs: ClassVar[bool]
    """Whether the rule reads the cost curve, so that it is worth calibrating first."""

    def start(self, cost: CostCurve) -> Stop:
        """Begins a run whose steps cost what ``cost`` says, now and as it learns more."""
