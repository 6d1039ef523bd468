"""Log-probabilities of tokens under the raw model, for ``logprobs=``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hornbeam.engine.request import Request
from hornbeam.results import TokenLogprob

__all__ = ["prompt_entries", "token_entries"]


def token_entries(request: Request, tokens: Sequence[int], logits: torch.Tensor) -> list[TokenLogprob]:
    """Of each token, from the raw logits ``[len(tokens), V]`` of the rows before them."""
    count = request.options.logprobs or 0
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


def prompt_entries(request: Request, tokens: Sequence[int], logits: torch.Tensor) -> None:
    """Adds those of a prompt's tokens that follow some of its rows: ``logits [len(tokens), V]``."""
    begin = request.branch.length
    following = request.prompt[begin + 1 : begin + len(tokens) + 1]
    del request.prompt_logprobs[begin + 1 :]  # of a step that was rolled back
    request.prompt_logprobs += token_entries(request, following, logits)
