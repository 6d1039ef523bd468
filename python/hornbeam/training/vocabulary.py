"""Which tokens a head can guess: those with the most expected occurrences in its target's own texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hornbeam.training.recorded_text import Text

__all__ = ["choose_vocabulary", "expected_shares"]

# Places of the texts that are looked at, and how many at once.
PLACES, PLACES_AT_ONCE = 24_000, 1000


@torch.no_grad()
def expected_shares(
    texts: Sequence[Text], output: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The mean of the target's distributions, float64 ``[V]``, over each of two halves of some places.

    Args:
        texts: recorded ones.
        output: the target's output matrix, ``[V, H]``.
        generator: of the choice of places.
    """
    # The last token of a text has no states.
    ends = torch.tensor([len(text.tokens) - 1 for text in texts]).cumsum(0)
    places = torch.randperm(int(ends[-1]), generator=generator)[:PLACES]
    halves = []
    for half in (places[::2].contiguous(), places[1::2].contiguous()):
        total = torch.zeros(len(output), dtype=torch.float64)
        for part in half.split(PLACES_AT_ONCE):
            # Taken one by one, since all states may be more than the memory holds.
            numbers = torch.searchsorted(ends, part, right=True).tolist()
            rows = [
                texts[at].hidden[place - int(ends[at]) - 1, -1]
                for at, place in zip(numbers, part.tolist(), strict=True)
            ]
            total += (torch.stack(rows).float() @ output.T).softmax(dim=-1).sum(dim=0).double()
        halves.append(total / len(half))
    return halves[0], halves[1]


def choose_vocabulary(shares: tuple[Tensor, Tensor], size: int) -> tuple[Tensor, float]:
    """The ids of the likeliest tokens, ascending, and the share of the probability that the likeliest of the
    first half cover in the second.

    Args:
        shares: of :func:`expected_shares`.
        size: tokens that are chosen, or all if there are fewer.
    """
    first, second = shares
    covered = second[first.argsort(descending=True, stable=True)[:size]].sum()
    ids = (first + second).argsort(descending=True, stable=True)[:size].sort().values
    return ids, float(covered)
