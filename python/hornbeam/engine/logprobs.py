"""Log-probabilities of tokens under the raw model, for ``logprobs=``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hornbeam.results import TokenLogprob

__all__ = ["token_entries"]


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
