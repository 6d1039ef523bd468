"""Drives a source that works on one sequence at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hornbeam.speculation.declarations import fork_of
from hornbeam.speculation.protocols import Ask, Draft, Drafter, Outcome

__all__ = ["PerSequence"]


class PerSequence:
    """A :class:`hornbeam.speculation.Proposer` over one :class:`hornbeam.speculation.Drafter` a sequence."""

    hidden_layers: tuple[int, ...] = ()

    def __init__(self, source: Draft) -> None:
        self.source = source
        self.drafters: dict[int, Drafter] = {}

    def start(self, index: int, prompt_ids: Sequence[int], prediction: Sequence[int] = ()) -> None:
        """Begins a drafter for the sequence; with a ``prediction`` only where the source takes one."""
        start: Any = self.source.start
        self.drafters[index] = start(prompt_ids, prediction) if prediction else start(prompt_ids)

    def fork(self, index: int, child: int) -> bool:
        """Forks the sequence's drafter, if it can be forked."""
        fork = fork_of(self.drafters[index])
        if fork is not None:
            self.drafters[child] = fork()
        return fork is not None

    def propose(self, asks: Sequence[Ask]) -> list[Any]:
        """Asks one drafter after the other."""
        return [self.drafters[ask.index].propose(ask.pending, ask.max_tokens) for ask in asks]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Hands committed tokens on; drafters know their prompts."""
        for outcome in outcomes:
            if not outcome.is_prompt:
                self.drafters[outcome.index].extend(outcome.committed)

    def finish(self, index: int) -> None:
        """Forgets the sequence's drafter."""
        self.drafters.pop(index, None)
