"""What a verification rule can be expected to accept of a drafted tree, the laws of both models given.

A run of the decoder says this with the noise of its own draws: whether a token was accepted, and which
text it went on with. Here both are summed over: a figure is the expectation over the verifier's draws and
the target's, for one prefix and one drafted tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["EXPECTED", "accepted_by_rank", "block", "children", "target_only", "without_replacement"]

Rows = Callable[[int], Tensor]
"""The law ``[V]`` after token ``i`` of a tree, -1 for the root, in float64. Asked of tokens with children,
and by :func:`block` of all but the last."""


def children(parents: Sequence[int]) -> dict[int, list[int]]:
    """The children of every token that has some, in the order of drawing."""
    found: dict[int, list[int]] = {}
    for token, parent in enumerate(parents):
        found.setdefault(parent, []).append(token)
    return found


def target_only(tokens: Sequence[int], parents: Sequence[int], target: Rows, draft: Rows) -> float:
    """A token is accepted where the target draws it: the sum of all paths' likelihoods."""
    reach = {-1: 1.0}
    for parent, below in children(parents).items():
        law = target(parent)
        for token in below:
            reach[token] = reach[parent] * float(law[tokens[token]])
    return sum(reach.values()) - 1.0


def without_replacement(tokens: Sequence[int], parents: Sequence[int], target: Rows, draft: Rows) -> float:
    """Recursive rejection over distinct siblings. On a chain it is the rule ``chain``."""
    reach = {-1: 1.0}
    for parent, below in children(parents).items():
        p, q = target(parent).clone(), draft(parent).clone()
        left = reach[parent]
        for token in below:
            drawn = tokens[token]
            if q[drawn] == 0:  # the draft's law cannot have drawn it
                reach[token] = 0.0
                continue
            chance = min(1.0, float(p[drawn] / q[drawn]))
            reach[token] = left * chance
            left *= 1.0 - chance
            p = _refused(p, q, drawn)
    return sum(reach.values()) - 1.0


def accepted_by_rank(tokens: Sequence[int], target: Tensor, draft: Tensor) -> list[float]:
    """For each of some distinct siblings the probability that the one drawn at its place is accepted: over
    what is drawn there, given those before it."""
    p, q, left, found = target.clone(), draft.clone(), 1.0, []
    for drawn in tokens:
        found.append(left * float(torch.minimum(p, q).sum()))
        left *= 1.0 - min(1.0, float(p[drawn] / q[drawn]))
        p = _refused(p, q, drawn)
    return found


def _refused(p: Tensor, q: Tensor, drawn: int) -> Tensor:
    """What the target is to draw from once ``drawn`` was refused; ``q`` becomes the law of the next sibling.
    Where nothing is left of the target it was accepted for sure, and its law stays."""
    rest = (p - q).clamp_(min=0)
    total = float(rest.sum())
    q[drawn] = 0
    q /= max(float(q.sum()), 1e-300)
    return rest.div_(total) if total > 0 else p


def block(tokens: Sequence[int], parents: Sequence[int], target: Rows, draft: Rows) -> float:
    """Block verification of a chain (Sun et al. 2024, algorithm 2): the last token whose own test passes,
    and all before it."""
    factor, none_later, bounds = 1.0, 1.0, []
    for index, token in enumerate(tokens):
        p, q = target(index - 1), draft(index - 1)
        factor = min(1.0, factor * float(p[token] / q[token])) if q[token] > 0 else 0.0
        if index == len(tokens) - 1:
            bounds.append(factor)
        else:
            rest = float((factor * target(index) - draft(index)).clamp_(min=0).sum())
            bounds.append(rest / (rest + 1.0 - factor) if rest > 0 else 0.0)
    expected = 0.0
    for bound in reversed(bounds):
        none_later *= 1.0 - bound
        expected += 1.0 - none_later
    return expected


EXPECTED = {
    "target_only": target_only,
    "without_replacement": without_replacement,
    "chain": without_replacement,
    "block": block,
}
