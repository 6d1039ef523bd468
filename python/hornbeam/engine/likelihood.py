"""Log-likelihoods of continuations: what :meth:`hornbeam.LM.score` does.

The prompt is computed once; every continuation of more than one token is a branch of it, and as many
branches as there is room for share a forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from hornbeam import cuda
from hornbeam.errors import ArgumentError
from hornbeam.results import Likelihood

if TYPE_CHECKING:
    from hornbeam.cache.tree import Branch
    from hornbeam.engine.host import Host

__all__ = ["score"]


def score(engine: Host, prompt: list[int], continuations: list[list[int]]) -> list[Likelihood]:
    """Of each continuation, in order; none is empty.

    Raises:
        ArgumentError: prompt and continuation are longer than the model's context.
    """
    for tokens in continuations:
        if len(prompt) + len(tokens) > engine.max_positions + 1:
            raise ArgumentError(
                f"prompt and continuation have {len(prompt) + len(tokens)} tokens, "
                f"expected at most {engine.max_positions + 1}"
            )
    root = engine.tree.match(prompt, max_tokens=len(prompt) - 1)
    try:
        last = _read(engine, root, prompt)
        [heads] = cuda.upload([torch.tensor([tokens[0] for tokens in continuations])], last.device)
        logprobs = [[value] for value in torch.log_softmax(last.float(), dim=-1)[heads].tolist()]
        is_greedy = (heads == last.argmax()).tolist()
        for group in _groups(continuations, max(1, engine.prefill_rows)):
            rest = _follow(engine, root, [continuations[index] for index in group])
            for index, (values, are_likeliest) in zip(group, rest, strict=True):
                logprobs[index] += values
                is_greedy[index] = is_greedy[index] and are_likeliest
    finally:
        root.drop()
    return [Likelihood(sum(own), own, greedy) for own, greedy in zip(logprobs, is_greedy, strict=True)]


def _read(engine: Host, branch: Branch, prompt: list[int]) -> torch.Tensor:
    """Appends what a branch lacks of a prompt; the logits ``[V]`` after it."""
    while branch.length < len(prompt):
        rows = prompt[branch.length : branch.length + engine.prefill_rows]
        with engine.tree.step([(branch, rows, None)], owner=engine) as step:
            logits = engine.forward(step, logits_rows=[int(step.rows[0][-1])]).logits[0]
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


def _follow(engine: Host, root: Branch, continuations: list[list[int]]) -> list[tuple[list[float], bool]]:
    """Log-probabilities of all tokens but the first, and whether all are the likeliest, in one pass."""
    branches = [root.fork() for _ in continuations]
    try:
        requests = [(b, tokens[:-1], None) for b, tokens in zip(branches, continuations, strict=True)]
        with engine.tree.step(
            requests, owner=engine
        ) as step:  # never committed: the tree keeps nothing of it
            logits = engine.forward(step).logits
        parts, likeliest = [], []
        for rows, tokens in zip(step.rows, continuations, strict=True):
            own, targets = cuda.upload([torch.as_tensor(rows), torch.tensor(tokens[1:])], logits.device)
            picked = logits[own].float()
            parts.append(picked.gather(1, targets[:, None])[:, 0] - picked.logsumexp(dim=-1))
            likeliest.append((picked.argmax(dim=-1) == targets).all())
        values, greedy = torch.cat(parts), torch.stack(likeliest).tolist()
    finally:
        for branch in branches:
            branch.drop()
    lengths = [len(tokens) - 1 for tokens in continuations]
    return [(part.tolist(), own) for part, own in zip(values.cpu().split(lengths), greedy, strict=True)]
