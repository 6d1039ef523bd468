"""How well an acceptance head tells what will be refused, on held-out texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hornbeam.speculation.stop.acceptance_head import acceptance

__all__ = ["THRESHOLDS", "area", "figures_of"]

#: Probabilities of a refusal above which a chain ends, in the figures.
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)


def area(scores: Tensor, labels: Tensor) -> float:
    """Under the ROC curve of outcomes that are drawn from the labels, in expectation.

    Args:
        scores: ``[n]``, greater where acceptance is likelier.
        labels: ``[n]``, probabilities of acceptance.
    """
    order = scores.argsort(stable=True)
    accepted, refused = labels[order].double(), 1 - labels[order].double()
    pairs = accepted.sum() * refused.sum()
    return float((accepted * (refused.cumsum(0) - refused / 2)).sum() / pairs) if pairs else 0.5


@torch.no_grad()
def figures_of(weights: dict[str, Tensor], states: Tensor, labels: Tensor) -> dict[str, Any]:
    """The figures of held-out rows, whose every token is drawn.

    Args:
        weights: of the acceptance head, in float32.
        states: ``[n, depth, H]``.
        labels: ``[n, depth]``.

    Returns:
        ``rows``, how many there are; ``by_depth`` the mean label, the mean estimate, and the area under the
        ROC curve of outcomes drawn from the labels; for some ``thresholds`` how many tokens a chain draws,
        how many of them are accepted, and their share; and the same of chains of ``fixed`` length.
    """
    estimates = acceptance(weights, states.flatten(0, 1)).view(labels.shape)
    depth = labels.shape[1]
    by_depth = [
        {
            "depth": at + 1,
            "label": float(labels[:, at].mean()),
            "estimate": float(estimates[:, at].mean()),
            "area_under_roc": area(estimates[:, at], labels[:, at]),
        }
        for at in range(depth)
    ]
    # The labels are given true tokens before, so their product is that of a whole accepted path.
    survival = labels.cumprod(dim=1)
    refusal = 1 - estimates.cumprod(dim=1)

    def lengths(stop: Tensor) -> dict[str, float]:
        """``stop[:, i]``: whether nothing is drawn after token i."""
        goes_on = torch.ones_like(labels, dtype=torch.bool)
        for at in range(1, depth):
            goes_on[:, at] = goes_on[:, at - 1] & ~stop[:, at - 1]
        drawn = goes_on.sum(dim=1).double().mean()
        accepted = (survival * goes_on).sum(dim=1).double().mean()
        return {"drawn": float(drawn), "accepted": float(accepted), "share": float(accepted / drawn)}

    nowhere = torch.zeros_like(refusal, dtype=torch.bool)
    return {
        "rows": len(labels),
        "by_depth": by_depth,
        "thresholds": {str(threshold): lengths(refusal > threshold) for threshold in THRESHOLDS},
        "fixed": {
            str(length): lengths(nowhere.index_fill(1, torch.arange(length - 1, depth), True))
            for length in range(1, depth + 1)
        },
    }
