"""Paths of a search, as values see them and as results hold them."""

from __future__ import annotations

import html
import os
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.pages import render
from hornbeam.search.budget import Ledger
from hornbeam.search.history import SearchHistory
from hornbeam.search.page import told
from hornbeam.search.tree_file import read_tree, write_tree

__all__ = ["Answer", "Path", "SearchResult", "SearchTree", "Stop", "packed", "unpacked"]

TREE = "hornbeam search tree"

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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all paths to a file, whole or not at all: safetensors, with what is text as JSON.

        Args:
            path: the file.

        Raises:
            ArgumentError: a path has not as many log-probabilities as tokens.
            OSError: it cannot be written.
        """
        root = self.paths[0]
        tensors, data = packed([self.paths[node] for node in sorted(self.paths) if node])
        tensors["prompt"] = torch.tensor(root.prompt_ids, dtype=torch.int64)
        write_tree(pathlib.Path(path), TREE, tensors, data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SearchTree:
        """What :meth:`save` wrote.

        Args:
            path: the file.

        Raises:
            ArgumentError: it is another kind of file, of a later version, or damaged.
        """
        tensors, data, _ = read_tree(pathlib.Path(path), TREE, "path")
        prompt: list[int] = tensors["prompt"].tolist()
        paths = {0: Path(0, None, "", [], [], 0, prompt)}
        unpacked(tensors, data, paths)
        return cls(paths)


def packed(paths: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Columns of paths, one element each, parents before their children, and what of them is text. Of each
    path its last step alone: the rest is its parent's.

    Raises:
        ArgumentError: a path has not as many log-probabilities as tokens.
    """
    for path in paths:
        if len(path.logprobs) != len(path.token_ids):
            raise ArgumentError(
                f"path {path.node} has {len(path.logprobs)} log-probabilities, expected one for each of its "
                f"{len(path.token_ids)} tokens"
            )
    steps = [path.token_ids[path.step :] for path in paths]
    tensors = {
        "node": torch.tensor([path.node for path in paths], dtype=torch.int64),
        "parent": torch.tensor([path.parent.node if path.parent else 0 for path in paths], dtype=torch.int64),
        "length": torch.tensor([len(step) for step in steps], dtype=torch.int64),
        "token": torch.tensor([token for step in steps for token in step], dtype=torch.int64),
        "logprob": torch.tensor(
            [one for path in paths for one in path.logprobs[path.step :]], dtype=torch.float64
        ),
        "value": torch.tensor(
            [float("nan") if path.value is None else path.value for path in paths], dtype=torch.float64
        ),
        "finished": torch.tensor([path.is_finished for path in paths], dtype=torch.bool),
    }
    return tensors, {"text": [path.step_text for path in paths], "answer": [path.answer for path in paths]}


def unpacked(tensors: Mapping[str, Tensor], data: Mapping[str, Any], known: dict[int, Path]) -> list[Path]:
    """The paths of :func:`packed`; ``known`` has those that they go on from, by node, and gets them."""
    columns = [tensors[name].tolist() for name in ("node", "parent", "length", "value", "finished")]
    tokens, logprobs = tensors["token"].tolist(), tensors["logprob"].tolist()
    found, begin = [], 0
    for node, number, length, value, is_finished, text, answer in zip(
        *columns, data["text"], data["answer"], strict=True
    ):
        parent, own = known[number], slice(begin, begin + length)
        begin += length
        known[node] = Path(
            node,
            parent,
            parent.text + text,
            parent.token_ids + tokens[own],
            parent.logprobs + logprobs[own],
            len(parent.token_ids),
            parent.prompt_ids,
            is_finished,
            answer,
            None if value != value else value,
        )
        found.append(known[node])
    return found


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
