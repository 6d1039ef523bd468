"""The search for MInference's pattern of each head, on texts, beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from hornbeam import ops
from hornbeam.attend.prefill.minference import HeadPattern, HeadPatterns, MInference
from hornbeam.cache.tree import PrefixTree
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


class Host(Protocol):
    """What runs a model over pages, such as :class:`hornbeam.Engine`."""

    tree: PrefixTree
    runner: Any

    def forward(self, step: Any, **options: Any) -> Any:
        """Runs the rows of an open step."""


class Model(Protocol):
    """What has such a host, such as :class:`hornbeam.LM`."""

    @property
    def engine(self) -> Host:
        """The host."""


class _Covered:
    """Adds up what each candidate covers of each head, while a model reads a text."""

    def __init__(
        self, host: Host, branch: Any, candidates: Sequence[HeadPattern], recipe: MInference
    ) -> None:
        self.tree, self.branch = host.tree, branch
        self.candidates, self.recipe = candidates, recipe
        shape = host.runner.shape
        sizes = len(candidates), shape.num_layers, shape.num_heads
        self.mass = torch.zeros(sizes, dtype=torch.float64, device="cpu")

    def __call__(self, module: torch.nn.Module, layer: int, query: Tensor, options: dict[str, Any]) -> None:
        heads = self.tree.num_kv_heads
        table = self.tree.key_table(self.branch, in_step=True)
        planes = slice(layer * heads, (layer + 1) * heads)
        own = slice(table.offsets[planes.start], table.offsets[planes.stop])
        keys, _ = ops.gather_rows(self.tree.chunks, table.counts[planes], table.entries[own])
        keys = keys.view(heads, -1, keys.shape[-1])
        query = query.detach().float().cpu().contiguous()
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        for number, candidate in enumerate(self.candidates):
            selection = self.recipe.plan_of([candidate] * query.shape[0], query, keys, scale)
            self.mass[number, layer] += selection.covered_mass(query, keys, scale)


def search_patterns(
    lm: Model,
    texts: Sequence[Sequence[int]],
    *,
    candidates: Sequence[HeadPattern] = CANDIDATES,
    recipe: MInference | None = None,
) -> HeadPatterns:
    """The pattern of each head that covers most of its attention on some texts; of equals the first.

    MInference (arXiv 2407.02490, section 3.2) compares the outputs of candidates of the same cost; its first
    release compares the covered attention, and so do we. Costs a few dense attentions a candidate.

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
    host = lm.engine
    masses: list[Tensor] = []
    for text in texts:
        branch = host.tree.branch()
        try:
            with host.tree.step([(branch, list(text), None)], owner=host) as step:
                covered = _Covered(host, branch, tried, recipe)
                host.forward(step, logits_rows=[0], observer=covered)
        finally:
            branch.drop(keep=False)
        masses.append(covered.mass)
    best = torch.stack(masses).sum(0).argmax(0).tolist()
    return HeadPatterns(tuple(tuple(tried[number] for number in layer) for layer in best))
