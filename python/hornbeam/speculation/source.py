"""A draft source at work in one run, of either kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hornbeam.speculation.admission import admitted, check_count
from hornbeam.speculation.declarations import ProposerTraits, opens_runs, takes_prediction
from hornbeam.speculation.per_sequence import PerSequence
from hornbeam.speculation.protocols import Ask, Drafted, Outcome, Proposer, Run
from hornbeam.speculation.rule import is_ratio_test

__all__ = ["Source"]


class Source:
    """The proposer of a draft source, with a value for all that a proposer may leave out.

    Args:
        draft: a :class:`hornbeam.speculation.Draft` or a :class:`hornbeam.speculation.BatchDraft`.
        run: the run that it drafts for.

    Attributes:
        proposer: what the draft source opened.
        name: the class of the draft source.
        law: how its tokens come about.
        is_ratio_test: whether the run's verification compares the laws of its tokens.
        hidden_layers: whose hidden states it wants to see.
        takes_gates: whether it asks the run's stop rule before each draw.
        outline: gives the tree that it would draw for an ask; None if it cannot say.
        reuse: gives what it computed of the rows to verify; None if it computes nothing of them.
    """

    def __init__(self, draft: Any, run: Run) -> None:
        self.proposer: Proposer = draft.open(run) if opens_runs(draft) else PerSequence(draft)
        self.name = type(draft).__name__
        self._traits = ProposerTraits.of(self.proposer)
        self.law = self._traits.law
        self.is_ratio_test = is_ratio_test(run.rule, self.law, run.warp.is_greedy)
        self.hidden_layers = self._traits.hidden_layers
        self.takes_gates = self._traits.takes_gates
        self.outline = self._traits.outline
        self.reuse = self._traits.reuse
        self._takes_prediction = takes_prediction(draft)
        self._vocab_size: int = run.target.runner.shape.vocab_size

    def start(self, index: int, prompt_ids: Sequence[int], prediction: Sequence[int] = ()) -> None:
        """Begins a sequence, of which somebody expects that it goes on with ``prediction``."""
        if prediction and self._takes_prediction:
            start: Any = self.proposer.start
            start(index, prompt_ids, prediction)
        else:
            self.proposer.start(index, prompt_ids)

    def fork(self, index: int, child: int) -> bool:
        """Begins the sequence ``child`` where ``index`` is; says whether the source can. If not, nothing has
        happened, and the sequence is to be started with its text."""
        fork = self._traits.fork
        return fork is not None and fork(index, child)

    def propose(self, asks: Sequence[Ask]) -> list[Drafted]:
        """One draft for each ask, of tokens that the model has; see :mod:`hornbeam.speculation.admission`.

        Raises:
            ArgumentError: a proposal is none for its ask.
        """
        proposals = self.proposer.propose(asks)
        check_count(proposals, len(asks), self.name)
        return [
            admitted(
                proposal,
                self.name,
                vocab_size=self._vocab_size,
                max_tokens=ask.max_tokens,
                law=self.law,
                is_ratio_test=self.is_ratio_test,
            )
            for proposal, ask in zip(proposals, asks, strict=True)
        ]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Tells it what a forward pass did."""
        self.proposer.observe(outcomes)

    def credit(self, seconds: float) -> None:
        """Tells it what the forward pass saved by :attr:`reuse`."""
        if self._traits.credit is not None:
            self._traits.credit(seconds)

    def arrears(self, index: int) -> float:
        """Seconds that it will take to catch up with a sequence's text before it can guess."""
        arrears = self._traits.arrears
        return 0.0 if arrears is None else float(arrears(index))

    def kind_of(self, index: int, path: Sequence[int]) -> str:
        """Where the last token of a path in a sequence's latest draft came from, by name."""
        kind_of = self._traits.kind_of
        return self.name if kind_of is None else kind_of(index, path)

    def finish(self, index: int) -> None:
        """Ends a sequence."""
        self.proposer.finish(index)
