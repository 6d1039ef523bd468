"""The search for MInference's pattern of each head, on texts, beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hornbeam.attend.observe import Model, Seen, observe
from hornbeam.attend.prefill.minference import HeadPattern, HeadPatterns, MInference
from hornbeam.errors import ArgumentError

__all__ = ["CANDIDATES", "search_patterns"]

CANDIDATES = (
    HeadPattern("stream", 100, 800),
    HeadPattern("vertical_slash", 30, 800),
    HeadPattern("vertical_slash", 100, 750),
    HeadPattern("vertical_slash", 500, 700),
    HeadPattern("vertical_slash", 3500, 100),
)
"""Patterns of about the same cost, those of the released search; :func:`search_patterns` adds blocks of the
same cost, an eighth of those that there are."""


def search_patterns(
    lm: Model,
    texts: Sequence[Sequence[int]],
    *,
    candidates: Sequence[HeadPattern] = CANDIDATES,
    recipe: MInference | None = None,
) -> HeadPatterns:
    """The pattern of each head that covers most of its attention on some texts; of equals the first.

    MInference (arXiv 2407.02490, section 3.2) compares the outputs of candidates of the same cost; its first
    release compares the covered attention, and so do we. Costs a few dense attentions a candidate. Heads of
    layers that :func:`hornbeam.attend.observe` does not show have the first candidate.

    Args:
        lm: the model, a :class:`hornbeam.LM`.
        texts: token ids of a few texts, each as long as the prompts to come.
        candidates: patterns to choose from. Where none of them is of blocks, an eighth of the blocks of the
            longest text is one more.
        recipe: the blocks and forced lines that they are tried with.

    Raises:
        ArgumentError: there is no text, no candidate, or a text is empty.
    """
    if not texts or not all(len(text) for text in texts):
        raise ArgumentError(f"there are {len(texts)} texts, expected some, none of them empty")
    if not candidates:
        raise ArgumentError("there are no candidates, expected some")
    recipe = recipe or MInference()
    tried = list(candidates)
    if all(candidate.kind != "block_sparse" for candidate in tried):
        longest = max(len(text) for text in texts)
        tried.append(HeadPattern("block_sparse", max(1, longest // recipe.block // 8)))
    shape = lm.engine.runner.shape
    mass = torch.zeros(len(tried), shape.num_layers, shape.num_heads, dtype=torch.float64, device="cpu")

    def see(layer: int, seen: Seen) -> None:
        query, keys = seen.q.float().contiguous(), seen.k.float()
        for number, candidate in enumerate(tried):
            selection = recipe.plan_of([candidate] * query.shape[0], query, keys, seen.scale)
            mass[number, layer] += selection.covered_mass(query, keys, seen.scale)

    for text in texts:
        observe(lm, text, see)
    best = mass.argmax(0).tolist()
    return HeadPatterns(tuple(tuple(tried[number] for number in layer) for layer in best))
