"""Draft sources for tests: a random tiny model repeats nothing, so nothing but foresight is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
class _Proposal:
    tokens: list[int]
    signals: hb.spec.Signals


class _Drafter:
    def __init__(self, length: int, text: list[int], wrong: int) -> None:
        self.length = length
        self.text = text
        self.wrong = wrong

    def extend(self, token_ids: Sequence[int]) -> None:
        self.length += len(token_ids)

    def propose(self, pending: int, max_length: int) -> _Proposal:
        begin = self.length + 1
        tokens = [
            (token + 1) % 256 if at % self.wrong == 0 else token
            for at, token in enumerate(self.text[begin : begin + max_length], begin)
        ]
        return _Proposal(tokens, hb.spec.Signals([0.8] * len(tokens)))
