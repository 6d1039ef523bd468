"""Log-probabilities of tokens under the raw model, for ``logprobs=``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch

from hornbeam.results import TokenLogprob

if TYPE_CHECKING:
    from hornbeam.engine.request import Request

__all__ = ["Wanted", "take_entries", "token_entries"]

#: A request, what it emits in a step, and the rows before that.
Wanted = tuple["Request", list[int], list[int]]


def take_entries(wanted: Sequence[Wanted], logits: torch.Tensor) -> None:
    """Adds to each request what it asks for, of the raw logits ``[N, V]`` of a step: all that ask for equally
    many at once."""
    alike: defaultdict[int | None, list[Wanted]] = defaultdict(list)
    for one in wanted:
        alike[one[0].options.logprobs].append(one)
    for count, group in alike.items():
        rows = [row for _, _, own in group for row in own]
        chosen = logits if rows == list(range(len(logits))) else logits[rows]
        entries = iter(token_entries([token for _, own, _ in group for token in own], chosen, count or 0))
        for request, tokens, _ in group:
            request.logprobs += islice(entries, len(tokens))


def token_entries(tokens: Sequence[int], logits: torch.Tensor, count: int) -> list[TokenLogprob]:
    """Of each token, with the ``count`` likeliest of its place, from the raw logits ``[len(tokens), V]`` of
    the rows before them."""
    values = torch.log_softmax(logits[: len(tokens)].float(), dim=-1)
    own = values.gather(1, torch.tensor(list(tokens), device=values.device)[:, None])[:, 0].tolist()
    # A stable sort: of equal ones the lowest token first.
    count = min(count, values.shape[1])
    top = torch.sort(values, dim=-1, descending=True, stable=True) if count else None
    entries = []
    for place, (token, logprob) in enumerate(zip(tokens, own, strict=True)):
        likeliest: list[tuple[int, float]] = []
        if top is not None:
            ids, best = top.indices[place, :count].tolist(), top.values[place, :count].tolist()
            likeliest = list(zip(ids, best, strict=True))
        entries.append(TokenLogprob(token, logprob, likeliest))
    return entries
