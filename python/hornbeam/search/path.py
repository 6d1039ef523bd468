"""Paths of a search, as values see them and as results hold them."""

from __future__ import annotations

import html
import os
import pathlib
from dataclasses import dataclass, field
from typing import Any, Literal

from hornbeam.pages import render
from hornbeam.search.budget import Ledger
from hornbeam.search.history import SearchHistory
from hornbeam.search.page import told

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
        history: what was written, released and spent round by round.
    """

    best: Path | None
    answers: list[Answer]
    ledger: Ledger
    tree: SearchTree
    stop: Stop
    error: BaseException | None = None
    history: SearchHistory = field(default_factory=SearchHistory)

    def to_dict(self) -> dict[str, Any]:
        """The whole search as plain values: settings, what was spent, every round and node, the answers, and
        the numbers of the chosen path's nodes."""
        return told(self)

    def to_html(self) -> str:
        """A page that shows the search: no script, style, font or image comes from elsewhere."""
        return render("search", self.to_dict())

    def save_page(self, path: str | os.PathLike[str]) -> None:
        """Writes the page.

        Args:
            path: the file.

        Raises:
            OSError: the file cannot be written.
        """
        pathlib.Path(path).write_text(self.to_html(), encoding="utf-8")

    def _repr_html_(self) -> str:
        """The page, in a frame of its own, for notebooks."""
        page = html.escape(self.to_html(), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'

    def __repr__(self) -> str:
        return (
            f"<SearchResult {self.best!r}, {len(self.answers)} answers, stop {self.stop!r}, {self.ledger!r}>"
        )
