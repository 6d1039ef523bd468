"""Published methods of sparse decoding, one function each, with the paper's defaults.

Pages are those of the cache: 16 tokens unless ``hb.LM(..., page_tokens=...)`` says otherwise. Prompts are
read in full; see :mod:`hornbeam.recipes.prefill` for those that read them sparsely.
"""

from __future__ import annotations

from hornbeam.attend import Always, Bounds, Group, Mean, Recipe, TopK, TopP
from hornbeam.attend.recipe import NAMED_RECIPES

__all__ = ["inf_llm", "quest", "twilight", "window"]

#: Tokens of a page of the default size.
PAGE = 16


def quest(
    pages: int | str = 64,
    *,
    group: Group = "max",
    slack: float = 0.5,
    sinks: int = 4,
    dense_layers: int = 2,
) -> Recipe:
    """The pages whose bounds promise the greatest scores (Tang et al. 2024, arXiv 2406.10774): page 16, the
    first two layers dense, the last page always read and counted in the budget.

    The paper's own law is ``quest(pages, group="union", slack=1, sinks=0)``: every query head chooses for
    itself, by the bound, and the first page has no privilege. Its models have a kv head for each query head.
    Here the heads that share one read the same pages, scored by the greatest of their scores; the first page
    is always read and counts in the budget; and a score lies half the way from the middle of the bounds to
    the bound. At equal pages the last two lose less, see ``docs/attend.md``.

    Args:
        pages: how many are read, ``64`` (1,024 tokens), or a share of the text's, ``"12%"``.
        group: which query heads choose together, see :class:`hornbeam.attend.Recipe`.
        slack: what of the way to its bound a page is believed to reach, see :class:`hornbeam.attend.Bounds`.
        sinks: the first tokens that are read: whole pages.
        dense_layers: the first so many layers read everything.
    """
    return Recipe(Bounds(slack=slack), TopK(sinks=sinks, pages=pages), group, dense_layers, name="quest")


def twilight(p: float = 0.85, *, pages: int | None = 512, group: Group = "max") -> Recipe:
    """As few pages as hold the mass ``p``, of the ``pages`` of the greatest bounds (Lin et al. 2025, arXiv
    2502.02770; its defaults over Quest: 8,192 tokens, 0.85, the first two layers dense). The paper estimates
    the mass of single tokens from keys in 4 bits, and drops tokens; here the mass of a page is estimated from
    its bounds, which makes pages more alike than they are, and pages are dropped.

    Args:
        p: the mass to be reached, above 0 and at most 1.
        pages: pages that are read at most; no limit if it is None.
        group: which query heads choose together, see :class:`hornbeam.attend.Recipe`.
    """
    return Recipe(Bounds(), TopP(p=p, cap=pages), group, 2, name="twilight")


def window(tokens: int = 1024, *, sinks: int = 4) -> Recipe:
    """The first tokens and the last, in every layer, as StreamingLLM attends (Xiao et al. 2024, arXiv
    2309.17453). Nothing is let go, and positions are not renumbered; whole pages are read.
    :func:`hornbeam.recipes.streaming_llm` lets the others go.

    Args:
        tokens: the last tokens that are read.
        sinks: the first tokens that are read.
    """
    return Recipe(Mean(), Always(sinks=sinks, window=tokens), "max", 0, name="window")


def inf_llm(blocks: int = 16, *, block: int = 128, sinks: int = 128, window: int = 4096) -> Recipe:
    """First tokens, a window, and far blocks, the same for all heads of a layer (Xiao et al. 2024, arXiv
    2402.04617; the defaults of its release). The paper represents a block of 128 tokens by the mean of the
    four keys of it that its own window attended to most, and averages queries over a chunk. Here a page is
    represented by the mean of its keys, every row has its own query, and as many pages are read as ``blocks``
    hold, wherever they lie. In every layer; nothing is moved out of memory.

    Args:
        blocks: far blocks that are read.
        block: tokens of a block.
        sinks: the first tokens that are read.
        window: the last tokens that are read.
    """
    always = -(-sinks // PAGE) + -(-window // PAGE)
    pages = max(always + -(-blocks * block // PAGE), 1)
    return Recipe(Mean(), TopK(sinks=sinks, window=window, pages=pages), "layer", 0, name="inf_llm")


NAMED_RECIPES.update({name: globals()[name] for name in __all__})
