"""What a step did, told to draft sources and stop rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from hornbeam.speculation.protocols import Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hornbeam.cache.step import Step
    from hornbeam.engine.drafting import Drafting
    from hornbeam.engine.ragged_step import RaggedStep
    from hornbeam.engine.request import Request
    from hornbeam.model.runner import Output

__all__ = ["tell_sources"]


def tell_sources(
    taken: RaggedStep,
    step: Step,
    requests: Sequence[tuple[object, list[int], list[int] | None]],
    paths: Sequence[Sequence[int]],
    output: Output,
) -> None:
    """Tells everyone who drafts for a request of the step.

    Args:
        taken: the step.
        step: the same in the tree, committed.
        requests: branch, tokens and parents of the rows, one a request.
        paths: the rows that stay, one a request.
        output: of the forward pass.
    """
    for group in taken.groups:
        group.drafting.judge(group.drafts, group.verdicts)
    drafting_of = [taken.engine.group_of(request) for request in taken.taken]
    if all(drafting.source is None for drafting in drafting_of):
        return
    all_rows, begin, parts = step.rows, 0, {}
    for group in taken.groups:
        for request, draft in zip(group.requests, group.drafts, strict=True):
            parts[request.index] = output.logits[begin : begin + 1 + len(draft.tokens)]
            begin += 1 + len(draft.tokens)
    by_group: dict[int, tuple[Drafting, list[tuple[Request, Outcome]]]] = {}
    for place, (request, drafting) in enumerate(zip(taken.taken, drafting_of, strict=True)):
        if drafting.source is None:
            continue
        _, tokens, parents = requests[place]
        path = list(paths[place])
        outcome = Outcome(
            request.index,
            tokens,
            path,
            not request.is_read,
            request.branch.length - len(path),
            parts.get(request.index),
            _hidden(output, drafting.hidden_layers, all_rows[place]),
            None if not request.is_read else parents or range(-1, len(tokens) - 1),
        )
        by_group.setdefault(id(drafting), (drafting, []))[1].append((request, outcome))
    for drafting, pairs in by_group.values():
        drafting.meet([request for request, _ in pairs])
        drafting.observe([outcome for _, outcome in pairs])


def _hidden(output: Output, layers: Sequence[int], own: NDArray[np.int64]) -> torch.Tensor | None:
    """What a draft source wants to see of one request's hidden states."""
    if output.hidden is None or not layers:
        return None
    return torch.stack([output.hidden[layer][_run(own)] for layer in layers], dim=1)


def _run(rows: NDArray[np.int64]) -> slice | torch.Tensor:
    """Rows as an index; a slice where they are neighbours, so that none is sent to a device."""
    first = int(rows[0])
    if bool((np.diff(rows) == 1).all()):
        return slice(first, first + len(rows))
    return torch.from_numpy(rows)
