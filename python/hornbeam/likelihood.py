"""Log-likelihoods of continuations: what :meth:`hornbeam.LM.score` does.

The prompt is computed once; every continuation of more than one token is a branch of it, and as many
branches as there is room for share a forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hornbeam import cuda
from hornbeam.errors import ArgumentError

if TYPE_CHECKING:
    from hornbeam.lm import LM
    from hornbeam.tree import Branch

__all__ = ["Score", "score"]


@dataclass(frozen=True)
class Score:
    """Log-likelihood of a continuation: ``total`` in nats, ``token_logprobs`` one a token."""

    total: float
    token_logprobs: list[float]


def score(lm: LM, prompt: list[int], continuations: list[list[int]]) -> list[Score]:
    """Of each continuation, in order; none is empty.

    Raises:
        ArgumentError: prompt and continuation are longer than the model's context.
    """
    for tokens in continuations:
        if len(prompt) + len(tokens) > lm.max_positions + 1:
            raise ArgumentError(
                f"prompt and continuation have {len(prompt) + len(tokens)} tokens, "
                f"expected at most {lm.max_positions + 1}"
            )
    root = lm.tree.match(prompt, max_tokens=len(prompt) - 1)
    try:
        last = _read(lm, root, prompt)
        [heads] = cuda.upload([torch.tensor([tokens[0] for tokens in continuations])], last.device)
        logprobs = [[value] for value in torch.log_softmax(last.float(), dim=-1)[heads].tolist()]
        for group in _groups(continuations, max(1, lm.prefill_rows)):
            rest = _follow(lm, root, [continuations[index] for index in group])
            for index, values in zip(group, rest, strict=True):
                logprobs[index] += values
    finally:
        root.drop()
    return [Score(sum(values), values) for values in logprobs]


def _read(lm: LM, branch: Branch, prompt: list[int]) -> torch.Tensor:
    """Appends what a branch lacks of a prompt; the logits ``[V]`` after it."""
    while branch.length < len(prompt):
        rows = prompt[branch.length : branch.length + lm.prefill_rows]
        with lm.tree.step([(branch, rows, None)], owner=lm) as step:
            logits = lm.runner.forward(lm.tree, step, logits_rows=[int(step.rows[0][-1])]).logits[0]
            step.commit([range(len(rows))])
    return logits


def _groups(continuations: list[list[int]], room: int) -> Iterator[list[int]]:
    """The continuations that have rows, by index: as many in a group as there is ``room`` for."""
    group: list[int] = []
    rows = 0
    for index, tokens in enumerate(continuations):
        if len(tokens) == 1:
            continue
        if group and rows + len(tokens) - 1 > room:
            yield group
            group, rows = [], 0
        group.append(index)
        rows += len(tokens) - 1
    if group:
        yield group


def _follow(lm: LM, root: Branch, continuations: list[list[int]]) -> list[list[float]]:
    """Log-probabilities of all tokens but the first, in one forward pass."""
    branches = [root.fork() for _ in continuations]
    try:
        requests = [(b, tokens[:-1], None) for b, tokens in zip(branches, continuations, strict=True)]
        with lm.tree.step(requests, owner=lm) as step:  # never committed: the tree keeps nothing of it
            logits = lm.runner.forward(lm.tree, step).logits
        parts = []
        for rows, tokens in zip(step.rows, continuations, strict=True):
            own, targets = cuda.upload([torch.as_tensor(rows), torch.tensor(tokens[1:])], logits.device)
            picked = logits[own].float()
            parts.append(picked.gather(1, targets[:, None])[:, 0] - picked.logsumexp(dim=-1))
        values = torch.cat(parts)
    finally:
        for branch in branches:
            branch.drop()
    return [part.tolist() for part in values.cpu().split([len(tokens) - 1 for tokens in continuations])]
