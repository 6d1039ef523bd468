"""What the history of a search says of its nodes and of the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from hornbeam.search.history import NodeRecord, SearchHistory
from hornbeam.text import decode
from hornbeam.trace import described, model_facts

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.request import Request
    from hornbeam.search.budget import Budget
    from hornbeam.search.path import Path
    from hornbeam.search.policy.base import Policy
    from hornbeam.search.step_end import StepEnd

__all__ = ["Described", "describe", "node_records"]


class Described(Protocol):
    """What is told of a search."""

    engine: Engine
    prompt: list[int]
    policy: Policy
    finish: Any
    step: StepEnd
    budget: Budget
    seed: int
    draft: Any

    @property
    def value(self) -> Any:
        """What values paths."""

    @property
    def select(self) -> Any:
        """What chooses among the finished ones."""


def describe(history: SearchHistory, search: Described) -> None:
    """Names in a history what is searched, by which model and how."""
    policy, engine = search.policy, search.engine
    history.began = datetime.now().isoformat(" ", "seconds")
    history.budget = search.budget
    history.model = model_facts(engine)
    if engine.tokenizer is not None:
        history.prompt = decode(engine.tokenizer, search.prompt)
    history.settings = {
        "recipe": type(policy).__name__,
        **{entry.name: described(getattr(policy, entry.name)) for entry in fields(policy)},
        "value": described(search.value),
        "finish": described(search.finish),
        "delimiter": "none" if search.step.delimiter is None else repr(search.step.delimiter),
        "max_step_tokens": str(search.step.max_tokens),
        "select": described(search.select),
        "draft": described(search.draft),
        "seed": str(search.seed),
    }


def node_records(
    engine: Engine,
    paths: Sequence[Path],
    requests: Sequence[Request],
    pages: Mapping[int, Mapping[int, int]],
    number: int,
) -> dict[int, NodeRecord]:
    """The records of a round's nodes, while all that the search holds is held.

    Args:
        engine: that wrote them.
        paths: of the round.
        requests: that wrote them.
        pages: of each node that is held, how many it holds of each node of the prefix tree. What was let go
            within the round, for want of bytes, holds none.
        number: of the round.
    """
    holders = Counter(part for held in pages.values() for part in held)
    return {
        path.node: NodeRecord(
            number,
            request.stats.reused_tokens,
            engine.tree.slab_bytes
            * sum(count for part, count in pages.get(path.node, {}).items() if holders[part] == 1),
        )
        for path, request in zip(paths, requests, strict=True)
    }
