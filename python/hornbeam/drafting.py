"""From proposals to verified tokens: the part of a step that speculation owns."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from hornbeam import ops
from hornbeam.spec.protocols import Ask, Drafter, Outcome, Proposer, Run
from hornbeam.spec.protocols import Draft as DraftSource

if TYPE_CHECKING:
    from hornbeam.lm import LM
    from hornbeam.sequence import Options, Sequence

__all__ = ["Draft", "Drafting", "Verdict", "history", "process"]


@dataclass(frozen=True)
class Draft:
    """One sequence's draft in one step: a tree of tokens below the pending one.

    ``parents[i]`` is the index of token ``i``'s parent, before it, or -1 for a child of the pending token.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)

    @classmethod
    def chain(cls, tokens: Iterable[int]) -> Draft:
        """Every token the child of the one before."""
        tokens = list(tokens)
        return cls(tokens, list(range(-1, len(tokens) - 1)))

    @property
    def is_chain(self) -> bool:
        """Whether no token has two children."""
        return all(parent == index - 1 for index, parent in enumerate(self.parents))

    def rows(self, pending: int) -> tuple[list[int], list[int] | None]:
        """Tokens and parents of the request: the pending token, then the draft."""
        parents = None if self.is_chain else [-1, *(parent + 1 for parent in self.parents)]
        return [pending, *self.tokens], parents

    def path(self, index: int) -> list[int]:
        """The tokens from below the pending one to token ``index``, which is -1 for none."""
        found = []
        while index >= 0:
            found.append(self.tokens[index])
            index = self.parents[index]
        return found[::-1]


@dataclass(frozen=True)
class Verdict:
    """What verification says of one draft: the indices of the tokens kept, along one path, and the token
    that the target gives after them."""

    accepted: list[int]
    next_token: int


class Separate:
    """Drives a source that works on one sequence at a time."""

    hidden_layers: tuple[int, ...] = ()

    def __init__(self, source: DraftSource) -> None:
        self.source = source
        self.drafters: dict[int, Drafter] = {}

    def start(self, index: int, prompt_ids: Seq[int]) -> int:
        self.drafters[index] = self.source.start(prompt_ids)
        return len(prompt_ids)

    def propose(self, asks: Seq[Ask]) -> list[Any]:
        return [self.drafters[ask.index].propose(ask.pending, ask.max_tokens) for ask in asks]

    def observe(self, outcomes: Seq[Outcome]) -> None:
        for outcome in outcomes:
            if not outcome.is_prompt:
                self.drafters[outcome.index].extend(outcome.committed)

    def finish(self, index: int) -> None:
        self.drafters.pop(index, None)


class Drafting:
    """The draft source and the stop rule of one run."""

    def __init__(self, lm: LM, options: Options) -> None:
        self.lm = lm
        self.options = options
        source = options.draft
        self.source: Proposer | None = None
        if source is not None:
            run = Run(lm, options.warp, options.seed, options.rule)
            self.source = source.open(run) if hasattr(source, "open") else Separate(source)
            self.stop = options.length.start(lm.cost_curve)
        self._proposals: list[Any] = []

    @property
    def hidden_layers(self) -> tuple[int, ...]:
        """Whose hidden states the source wants to see."""
        return () if self.source is None else self.source.hidden_layers

    def start(self, sequence: Sequence) -> int:
        """Begins a sequence; returns how many tokens of its prompt may come from the cache."""
        if self.source is None:
            return len(sequence.prompt)
        return self.source.start(sequence.index, sequence.prompt)

    def finish(self, sequence: Sequence) -> None:
        """Ends a sequence."""
        if self.source is not None:
            self.source.finish(sequence.index)

    def propose(self, active: Seq[Sequence]) -> list[Draft]:
        """The drafts that are worth their rows in the next step, one a sequence."""
        if self.source is None:
            return [Draft() for _ in active]
        asks = [
            Ask(
                s.index,
                s.number,
                s.pending,
                s.position,
                min(s.room - len(s.output) - 1, self.lm.max_positions - s.position),
            )
            for s in active
        ]
        self._proposals = self.source.propose(asks)
        lengths = self.stop.choose(self._proposals)
        return [Draft.chain(p.tokens[:n]) for p, n in zip(self._proposals, lengths, strict=True)]

    def verify(self, active: Seq[Sequence], drafts: Seq[Draft], logits: torch.Tensor) -> list[Verdict]:
        """Decides from the logits of the rows ``[pending, *tokens]`` of every draft, in their order."""
        if self.options.processor is not None:
            parts = torch.split(logits, [1 + len(draft.tokens) for draft in drafts])
            logits = torch.cat(
                [process(s, draft, part) for s, draft, part in zip(active, drafts, parts, strict=True)]
            )
        offsets = [0]
        for draft in drafts:
            offsets.append(offsets[-1] + len(draft.tokens))
        verified = ops.verify(
            torch.tensor([token for draft in drafts for token in draft.tokens], dtype=torch.int64),
            torch.tensor([parent for draft in drafts for parent in draft.parents], dtype=torch.int32),
            torch.tensor(offsets, dtype=torch.int32),
            logits,
            rule=self.options.rule,
            warp=self.options.warp,
            seed=self.options.seed,
            sequences=torch.tensor([s.number for s in active], dtype=torch.int64),
            positions=torch.tensor([s.position for s in active], dtype=torch.int64),
            history=history(active, self.options),
        )
        counts, tokens = verified.num_accepted.tolist(), verified.next_token.tolist()
        paths = verified.accepted.tolist()
        return [
            Verdict([row - 1 for row in p[:n]], token)
            for p, n, token in zip(paths, counts, tokens, strict=True)
        ]

    def observe(self, outcomes: Seq[Outcome]) -> None:
        """Tells the source what a forward pass did."""
        if self.source is not None:
            self.source.observe(outcomes)

    def judge(self, drafts: Seq[Draft], verdicts: Seq[Verdict]) -> None:
        """Tells the stop rule how the verification went."""
        if self.source is not None:
            self.stop.observe(
                self._proposals,
                [len(draft.tokens) for draft in drafts],
                [len(verdict.accepted) for verdict in verdicts],
                [verdict.next_token for verdict in verdicts],
            )


def process(sequence: Sequence, draft: Draft, logits: torch.Tensor) -> torch.Tensor:
    """Applies the caller's processor to the rows ``[pending, *tokens]``, each with the tokens on its path."""
    processor = sequence.options.processor
    assert processor is not None
    before = [*sequence.prompt, *sequence.output]
    rows = []
    for index, row in enumerate(logits, -1):
        seen = torch.tensor([before + draft.path(index)], dtype=torch.int64, device=logits.device)
        rows.append(processor(seen, row[None].float()))
    return torch.cat(rows)


def history(active: Seq[Sequence], options: Options) -> list[tuple[list[int], list[int]]] | None:
    """Prompts and outputs, where the warp has penalties that read them."""
    if not options.warp.has_penalties:
        return None
    return [(s.prompt, s.output) for s in active]
