"""Results of searches on their way between machines: flat columns, however deep the tree is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hornbeam.search import SearchResult, SearchTree
from hornbeam.search.budget import Budget, Ledger
from hornbeam.search.history import SearchHistory
from hornbeam.search.path import Answer, Path, Stop, packed, unpacked

__all__ = ["Parcel"]


@dataclass(frozen=True)
class Parcel:
    """A :class:`hornbeam.search.SearchResult` without its hidden states.

    Attributes:
        columns: of all paths, arrays by name.
        texts: of the paths.
        prompt_ids: of the prompt.
        best: the node of the path that was chosen.
        answers: text, votes, value and node of the best of each.
        spent: of the ledger.
        stop: why it ended.
        error: what it ended with.
        history: its rounds.
    """

    columns: dict[str, Any]
    texts: dict[str, Any]
    prompt_ids: list[int]
    best: int | None
    answers: list[tuple[str, int, float, int]]
    spent: list[int]
    stop: Stop
    error: BaseException | None
    history: SearchHistory

    @classmethod
    def of(cls, result: SearchResult) -> Parcel:
        """Packs a result."""
        paths = result.tree.paths
        tensors, texts = packed([paths[node] for node in sorted(paths) if node])
        return cls(
            {name: tensor.numpy() for name, tensor in tensors.items()},
            texts,
            paths[0].prompt_ids,
            None if result.best is None else result.best.node,
            [(one.text, one.votes, one.value, one.best.node) for one in result.answers],
            result.ledger.snapshot(),
            result.stop,
            result.error,
            result.history,
        )

    def result(self) -> SearchResult:
        """Unpacks it."""
        paths = {0: Path(0, None, "", [], [], 0, self.prompt_ids)}
        unpacked(
            {name: torch.from_numpy(array.copy()) for name, array in self.columns.items()}, self.texts, paths
        )
        ledger = Ledger(Budget())
        ledger.go_on_from(self.spent)
        return SearchResult(
            None if self.best is None else paths[self.best],
            [Answer(text, votes, value, paths[node]) for text, votes, value, node in self.answers],
            ledger,
            SearchTree(paths),
            self.stop,
            self.error,
            self.history,
        )
