"""A search as plain values, for its page and for whoever reads them with a program."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any, Protocol

from hornbeam import _native
from hornbeam.search.budget import KINDS, Account
from hornbeam.search.history import NodeRecord, SearchHistory

__all__ = ["Found", "Written", "told"]


#: Of a path whose round was not recorded there is none of this.
_RECORDED = tuple(entry.name for entry in fields(NodeRecord))


class Written(Protocol):
    """What is looked at of a path."""

    node: int
    token_ids: list[int]
    logprobs: list[float]
    step: int
    text: str
    prompt_ids: list[int]
    is_finished: bool
    answer: str | None
    value: float | None

    @property
    def parent(self) -> Any:
        """The path that it goes on from."""

    @property
    def depth(self) -> int:
        """Steps from the prompt."""

    @property
    def step_text(self) -> str:
        """The text of the last step."""


class Found(Protocol):
    """What is looked at of a result."""

    best: Any
    answers: list[Any]
    ledger: Any
    tree: Any
    stop: Any
    error: BaseException | None
    history: SearchHistory


def told(result: Found) -> dict[str, Any]:
    """The whole search: its settings, what was spent, its rounds and its nodes, and the path that was chosen.

    Args:
        result: of a search.
    """
    history, best = result.history, result.best
    paths: list[Written] = [result.tree.paths[node] for node in sorted(result.tree.paths) if node]
    released = _released(paths, history.nodes)
    root: Written | None = result.tree.paths.get(0)
    return {
        "version": _native.__version__,
        "model": history.model or None,
        "began": history.began,
        "prompt": history.prompt,
        "prompt_tokens": 0 if root is None else len(root.prompt_ids),
        "settings": history.settings,
        "stop": result.stop,
        "error": None if result.error is None else f"{type(result.error).__name__}: {result.error}",
        "text": None if best is None else best.text,
        "answer": None if best is None else best.answer,
        "value": None if best is None else best.value,
        "best": None if best is None else best.node,
        "path": way_to(best),
        "answers": [
            {"text": answer.text, "votes": answer.votes, "value": answer.value, "best": answer.best.node}
            for answer in result.answers
        ],
        "budget": {kind: getattr(history.budget, kind) for kind in KINDS},
        "ledger": spent(result.ledger),
        "rounds": [asdict(record) for record in history.rounds],
        "nodes": [
            _node(path, history.nodes.get(path.node)) | {"released": released[path.node]} for path in paths
        ],
    }


def spent(ledger: Account) -> dict[str, Any]:
    """One number a kind of cost."""
    return {kind: getattr(ledger, kind) for kind in KINDS}


def way_to(path: Any) -> list[int]:
    """The numbers of the nodes from the first step to the one that ``path`` ends at."""
    found = []
    while path is not None and path.parent is not None:
        found.append(path.node)
        path = path.parent
    return found[::-1]


def _released(paths: Iterable[Written], records: Mapping[int, NodeRecord]) -> dict[int, int | None]:
    """The round after which neither a node nor one below it was held any more; None where some were."""
    found = {path.node: records[path.node].released if path.node in records else None for path in paths}
    # Children have greater numbers than their parents.
    for path in sorted(paths, key=lambda path: -path.node):
        below, own = found[path.node], found.get(path.parent.node)
        if path.parent.node:
            found[path.parent.node] = None if below is None or own is None else max(below, own)
    return found


def _node(path: Written, record: NodeRecord | None) -> dict[str, Any]:
    own = path.logprobs[path.step :]
    mean = sum(own) / len(own) if own else math.nan
    return {
        "node": path.node,
        "parent": path.parent.node,
        "depth": path.depth,
        "value": path.value,
        "text": path.step_text,
        "tokens": len(path.token_ids) - path.step,
        "mean_logprob": mean if math.isfinite(mean) else None,
        "is_finished": path.is_finished,
        "answer": path.answer,
        **(dict.fromkeys(_RECORDED) if record is None else asdict(record)),
    }
