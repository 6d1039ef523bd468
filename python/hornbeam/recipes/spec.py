"""Published ways to speculate, one function each, with the paper's defaults.

Each gives keywords of :meth:`hornbeam.LM.generate`::

    draft_lm = hb.LM.from_pretrained("smollm2")  # or a smaller model with the same vocabulary
    lm.generate(prompt, temperature=1.0, max_new_tokens=8, **hb.recipes.rsd_c(draft_lm))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hornbeam.errors import ArgumentError
from hornbeam.speculation import (
    AcceptanceHead,
    Auto,
    FeatureHead,
    Fixed,
    LayerSkip,
    MeasuredGain,
    NGram,
    SmallModel,
    Suffix,
    SuffixCorpus,
    TokenRecycling,
    shape,
)

if TYPE_CHECKING:
    from hornbeam.lm import LM

__all__ = [
    "auto",
    "eagle2",
    "layer_skip",
    "medusa_typical",
    "prompt_lookup",
    "rsd_c",
    "rsd_s",
    "sequoia",
    "specdec_pp",
    "suffix_decoding",
    "token_recycling",
]

Keywords = dict[str, Any]


def rsd_c(draft_lm: LM, *, branching: Sequence[int] = (3, 2, 1)) -> Keywords:
    """Recursive speculative decoding, constant branching (Jeon et al. 2024, arXiv 2402.14160). Exact.

    Args:
        draft_lm: a smaller model with the same vocabulary.
        branching: children of a node, a number a level.
    """
    tree = shape.GumbelTree(tuple(branching))
    return _verified(SmallModel(draft_lm, tree), "without_replacement", _size(branching))


def rsd_s(draft_lm: LM, *, width: int = 4, depth: int = 4) -> Keywords:
    """Recursive speculative decoding, stochastic beam search (Jeon et al. 2024, arXiv 2402.14160). Exact.

    Args:
        draft_lm: a smaller model with the same vocabulary.
        width: sequences that are kept on a level.
        depth: levels.
    """
    tree = shape.StochasticBeam(width, depth)
    return _verified(SmallModel(draft_lm, tree), "without_replacement", width * depth)


def sequoia(draft_lm: LM, *, size: int = 48, acceptance: Sequence[float] | None = None) -> Keywords:
    """Trees by dynamic programming from acceptance by rank, for this machine's cost of a row (Chen et al.
    2024, arXiv 2402.12374). Exact. Without ``acceptance`` it is learned.

    Args:
        draft_lm: a smaller model with the same vocabulary.
        size: tokens of a tree.
        acceptance: the share of each rank of sibling that is accepted; learned by default.
    """
    tree = shape.Sequoia(size=size, acceptance=None if acceptance is None else tuple(acceptance))
    return _verified(SmallModel(draft_lm, tree), "without_replacement", size)


def specdec_pp(
    draft: Any = None, *, weights: Any = None, threshold: float = 0.3, least: int = 2, most: int = 20
) -> Keywords:
    """Chains that end where a trained head expects a refusal (Huang et al. 2024, arXiv 2405.19715), with the
    authors' threshold and bounds. Exact. ``draft`` is a source with a shape, by default the feature head that
    comes with the default model; ``weights`` are those of an acceptance head that was trained for it.

    Args:
        draft: a source with a shape; the shipped feature head by default.
        weights: the file of an acceptance head trained for the draft; the shipped one by default.
        threshold: the probability of a refusal above which a chain ends.
        least: tokens that are always drawn.
        most: tokens that are drawn at most.
    """
    draft = FeatureHead() if draft is None else draft
    if not hasattr(draft, "shape"):
        raise ArgumentError(f"draft is a {type(draft).__name__}, expected a source with a shape")
    length = AcceptanceHead(weights, threshold, least)
    return {"draft": replace(draft, shape=shape.Chain(most)), "verify": "chain", "length": length}


def eagle2(draft: Any, *, size: int = 59, width: int = 10, depth: int = 6) -> Keywords:
    """Expand the likeliest nodes, rerank all, draw from the target (Li et al. 2024, arXiv 2406.16858).
    Exact. ``draft`` is a source with a shape: a feature head, or :class:`hornbeam.speculation.SmallModel`.

    Args:
        draft: a source with a shape: :class:`hornbeam.speculation.FeatureHead`,
            :class:`hornbeam.speculation.SmallModel` or :class:`hornbeam.speculation.LayerSkip`.
        size: tokens of a tree.
        width: nodes that are expanded on a level, and children of each.
        depth: levels.
    """
    if not hasattr(draft, "shape"):
        raise ArgumentError(f"draft is a {type(draft).__name__}, expected a source with a shape")
    return _verified(replace(draft, shape=shape.BestFirst(size, width, depth)), "target_only", size)


def medusa_typical(draft: Any, *, size: int = 64) -> Keywords:
    """Typical acceptance with Medusa's epsilon 0.3 and alpha 0.09 (Cai et al. 2024, arXiv 2401.10774).
    **Lossy**: the text is not the target's. ``draft`` is any source, for Medusa's heads are not ours.

    Args:
        draft: any source.
        size: tokens that are verified at most.
    """
    return _verified(draft, "typical", size)


def layer_skip(*, exit_layer: int, length: int = 6) -> Keywords:
    """The target's first layers draft, the others verify (Elhoushi et al. 2024, arXiv 2404.16710). Exact; it
    pays for a model that was trained to exit early.

    Args:
        exit_layer: the draft runs so many of the first layers.
        length: tokens of a chain.
    """
    return _verified(LayerSkip(exit_layer, shape=shape.Chain(length)), "chain", length)


def prompt_lookup(*, num_tokens: int = 10, max_ngram: int = 2) -> Keywords:
    """Copies what followed the text's last n-gram (Saxena 2023; transformers' ``prompt_lookup_num_tokens``).
    Exact.

    Args:
        num_tokens: tokens that are copied at most.
        max_ngram: tokens of the longest n-gram that is looked for.
    """
    return _verified(NGram(1, max_ngram, num_tokens), "coupled", num_tokens)


def suffix_decoding(*, corpus: SuffixCorpus | None = None, tree: bool = True, size: int = 64) -> Keywords:
    """Trees from counts over the request and a corpus (Oliaro et al. 2024, arXiv 2411.04975). Exact. Lengths
    by measured gain instead of in proportion to the match.

    Args:
        corpus: documents to draw on besides the text; see :func:`hornbeam.speculation.open_corpus`.
        tree: drafts a tree instead of a chain.
        size: tokens of a draft at most.
    """
    return {"draft": Suffix(size, corpus=corpus, tree=tree), "verify": "coupled", "length": MeasuredGain()}


def token_recycling(*, size: int = 60, width: int = 8) -> Keywords:
    """A static tree over the likeliest successors last seen (Luo et al. 2024, arXiv 2408.08696). Exact.

    Args:
        size: tokens of the tree.
        width: successors that are remembered of each token.
    """
    return _verified(TokenRecycling(size, width), "coupled", size)


def auto(
    *drafts: Any, corpus: SuffixCorpus | None = None, rows: int = 64, head: FeatureHead | None = None
) -> Keywords:
    """What :meth:`hornbeam.LM.generate` does by itself: all sources that there are for the model, and the
    ``drafts`` given, merged into one tree of which only what pays is verified; a source that does not pay
    is not asked. Exact, and the text is that of no draft.

    Args:
        drafts: further sources.
        corpus: documents for the suffix automaton.
        rows: tokens of a merged tree at most.
        head: a feature head in place of the one that comes with the package.
    """
    draft = Auto(*drafts, corpus=corpus, rows=rows, head=head)
    return {"draft": draft, "verify": "coupled", "length": MeasuredGain()}


def _verified(draft: Any, rule: str, size: int) -> Keywords:
    return {"draft": draft, "verify": rule, "length": Fixed(size)}


def _size(branching: Sequence[int]) -> int:
    """Tokens of a tree of constant branching."""
    total, level = 0, 1
    for width in branching:
        level *= width
        total += level
    return total
