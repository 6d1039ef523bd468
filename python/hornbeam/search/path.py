"""Paths of a search, as values see them and as results hold them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from hornbeam.search.budget import Ledger

__all__ = ["Answer", "Path", "SearchResult", "SearchTree", "Stop"]

Stop = Literal["over", "tokens", "forwards", "kv_bytes", "verifier_calls", "seconds", "interrupted", "error"]


@dataclass(frozen=True, eq=False)
class Path:
    """One way from the prompt to a node.

    Attributes:
        node: the number of the node that it ends at; 0 is the prompt.
        parent: the path that it goes on from; None of the prompt's.
        text: of the answer so far, without the prompt.
        token_ids: likewise.
        logprobs: the log-probability of each token under the raw model.
        step: the tokens that its last step added begin here.
        prompt_ids: the prompt's tokens.
        is_finished: whether there is nothing to go on from.
        answer: what ``finish`` gave for it, or its whole text.
        value: what it is worth; None until it was valued.
        hidden: the model's last hidden state at the path's last token, behind the last norm: float32
            ``[hidden size]`` on the CPU. Only where the value says ``needs_hidden = True``.
    """

    node: int
    parent: Path | None
    text: str
    token_ids: list[int]
    logprobs: list[float]
    step: int
    prompt_ids: list[int]
    is_finished: bool = False
    answer: str | None = None
    value: float | None = None
    hidden: Tensor | None = None

    @property
    def depth(self) -> int:
        """Steps from the prompt."""
        return 0 if self.parent is None else self.parent.depth + 1

    @property
    def step_text(self) -> str:
        """The text of the last step."""
        return self.text[len(self.parent.text) :] if self.parent is not None else ""

    def __repr__(self) -> str:
        shown = self.text if len(self.text) <= 60 else f"…{self.text[-59:]}"
        ending = ", finished" if self.is_finished else ""
        return f"<Path {self.node}: {shown!r}, value {self.value}{ending}>"


@dataclass(frozen=True)
class Answer:
    """An answer, and the finished paths that gave it.

    Attributes:
        text: the answer.
        votes: how many paths.
        value: the sum of their values.
        best: the one of greatest value.
    """

    text: str
    votes: int
    value: float
    best: Path


@dataclass
class SearchTree:
    """All paths that were valued, by the number of their node; the prompt's own is number 0.

    Args:
        paths: by the number of their last node.
    """

    paths: dict[int, Path] = field(default_factory=dict)

    def children(self, node: int) -> list[Path]:
        """The paths one step longer than that of ``node``."""
        return [p for p in self.paths.values() if p.parent is not None and p.parent.node == node]

    @property
    def finished(self) -> list[Path]:
        """Those that ended, by node."""
        return [self.paths[node] for node in sorted(self.paths) if self.paths[node].is_finished]


@dataclass
class SearchResult:
    """What a search found, at whatever point it ended.

    Attributes:
        best: the path that was chosen; None if none was valued.
        answers: all answers, the most votes first, then the greatest value.
        ledger: what was spent.
        tree: all paths.
        stop: why it ended: ``"over"`` by itself, the kind of cost that ran out, ``"interrupted"`` by
            Ctrl-C, or ``"error"``.
        error: what a value, ``finish``, a draft or the model raised, where ``stop`` is ``"error"``.
    """

    best: Path | None
    answers: list[Answer]
    ledger: Ledger
    tree: SearchTree
    stop: Stop
    error: BaseException | None = None

    def __repr__(self) -> str:
        return (
            f"<SearchResult {self.best!r}, {len(self.answers)} answers, stop {self.stop!r}, {self.ledger!r}>"
        )
