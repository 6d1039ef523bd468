"""Draft sources for tests: a random tiny model repeats nothing, so nothing but foresight is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

import hornbeam as hb


@dataclass
class Foresight:
    """Proposes the text that will come, with every ``wrong``-th token of it replaced."""

    texts: list[Sequence[int]] = field(default_factory=list)
    wrong: int = 5

    def start(self, prompt_ids: Sequence[int]) -> _Drafter:
        prompt = list(prompt_ids)
        text = next(t for t in self.texts if list(t[: len(prompt)]) == prompt)
        return _Drafter(len(prompt), list(text), self.wrong)


@dataclass
class Proposed:
    """A proposal: a chain, or a tree where there are parents."""

    tokens: list[int]
    signals: hb.spec.Signals
    parents: list[int] | None = None
    logits: Tensor | None = None


class _Drafter:
    def __init__(self, length: int, text: list[int], wrong: int) -> None:
        self.length = length
        self.text = text
        self.wrong = wrong

    def extend(self, token_ids: Sequence[int]) -> None:
        self.length += len(token_ids)

    def propose(self, pending: int, max_length: int) -> Proposed:
        begin = self.length + 1
        tokens = [
            (token + 1) % 256 if at % self.wrong == 0 else token
            for at, token in enumerate(self.text[begin : begin + max_length], begin)
        ]
        return Proposed(tokens, hb.spec.Signals([0.8] * len(tokens)))
