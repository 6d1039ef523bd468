"""Published methods of sparse prefill, one function each, with the paper's defaults.

They read prompts; see :mod:`hornbeam.recipes.attend` for what is read in decoding. All give up keys: what was
read with them is never served to a request that asks for exact keys.
"""

from __future__ import annotations

from pathlib import Path

from hornbeam.attend.prefill import FlexPrefill, HeadPatterns, InParts, MInference, PrefillRecipe
from hornbeam.attend.prefill.cost import STANDARD
from hornbeam.attend.recipe import NAMED_PREFILLS

__all__ = ["flex_prefill", "minference"]


def flex_prefill(
    gamma: float = 0.9,
    tau: float = 0.1,
    *,
    min_budget: int = 512,
    max_budget: int | None = None,
    parts: int = 1,
    always: bool = False,
) -> PrefillRecipe:
    """Each head finds its pattern and its budget on the prompt at hand (Lai et al. 2025, arXiv 2502.20766).
    Where the released code differs from the paper this follows the paper, see
    :class:`hornbeam.attend.FlexPrefill`.

    Args:
        gamma: the share of attention that each head is to cover.
        tau: the divergence below which pooled queries and keys choose; 0 leaves it to lines.
        min_budget: tokens of vertical lines, and of slash lines, that a head reads at least.
        max_budget: tokens of each that it reads at most; no limit if it is None.
        parts: that a prompt is cut into, each of which chooses for itself, see
            :class:`hornbeam.attend.InParts`; 1 is the paper's.
        always: read sparsely also where that is expected to take longer, see
            :class:`hornbeam.attend.prefill.CostModel`.
    """
    return _in_parts(
        FlexPrefill(gamma, tau, min_budget, max_budget, cost=None if always else STANDARD), parts
    )


def minference(
    patterns: HeadPatterns | str | Path | None = None, *, parts: int = 1, always: bool = False
) -> PrefillRecipe:
    """Each head has one of three patterns, found beforehand (Jiang et al. 2024, arXiv 2407.02490) by
    :func:`hornbeam.attend.search_patterns`.

    Args:
        patterns: of the model's heads, or the file that holds them; without any, each head has 1,000 vertical
            and 6,096 slash lines, as in the released code.
        parts: as in :func:`flex_prefill`.
        always: likewise.

    Raises:
        ArgumentError: the file holds no patterns.
    """
    if isinstance(patterns, (str, Path)):
        patterns = HeadPatterns.load(patterns)
    return _in_parts(MInference(patterns or HeadPatterns(), cost=None if always else STANDARD), parts)


def _in_parts(recipe: PrefillRecipe, parts: int) -> PrefillRecipe:
    return recipe if parts == 1 else InParts(recipe, parts)


NAMED_PREFILLS.update({name: globals()[name] for name in __all__})
