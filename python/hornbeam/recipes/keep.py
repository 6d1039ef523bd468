"""Published methods, one function each, with the paper's defaults.

``budget`` is tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``); where nothing
else is said a tenth is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from hornbeam.keep import (
    AccumulatedMass,
    AcrossHeads,
    Budget,
    EveryTokens,
    EvictThenMerge,
    ExpectedAttention,
    GlobalLocal,
    GlobalPrefix,
    HeadScores,
    KeyChannelValueToken,
    KeyDifference,
    KeyNorm,
    LastQuery,
    LayerGroups,
    MixedBits,
    NormalisedMass,
    Position,
    Pyramid,
    Recipe,
    TokenBits,
    WindowMass,
    WindowTokens,
)
from hornbeam.keep.recipe import NAMED_RECIPES

__all__ = [
    "ada_kv",
    "ems",
    "expected_attention",
    "h2o",
    "int8",
    "key_diff",
    "kivi",
    "knorm",
    "prefix_kv",
    "pyramid_kv",
    "snap_kv",
    "sparse_mm",
    "streaming_llm",
    "tova",
    "window_kv",
    "zip_cache",
]


#: What is kept where no budget is given.
DEFAULT_BUDGET: Budget = "10%"
#: Tokens of a block that is evicted at once: a page of the default size.
BLOCK = 16


def streaming_llm(budget: Budget = DEFAULT_BUDGET, *, sinks: int = 4, every: int = BLOCK) -> Recipe:
    """Sinks and the newest tokens (Xiao et al. 2024, arXiv 2309.17453). Positions are not renumbered.
    The paper evicts at every token, ``every=1``; here in blocks, so that a plane holds less than ``every``
    tokens above the budget in between.

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        sinks: tokens at the start that are kept anyway.
        every: tokens between two evictions.
    """
    return Recipe(Position(sinks), budget, when=EveryTokens(every), name="streaming_llm")


def h2o(budget: Budget = DEFAULT_BUDGET, *, every: int = BLOCK) -> Recipe:
    """Half of the budget for the newest tokens, half for those of most accumulated probability (Zhang et
    al. 2023, arXiv 2306.14048). Needs the queries of all tokens. The paper evicts at every token,
    ``every=1``; here in blocks, so that a plane holds less than ``every`` tokens above the budget in
    between.

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        every: tokens between two evictions.
    """
    return Recipe(AccumulatedMass(), budget, when=EveryTokens(every), name="h2o")


def tova(budget: Budget = DEFAULT_BUDGET, *, every: int = BLOCK) -> Recipe:
    """The tokens that the last one attends to (Oren et al. 2024, arXiv 2401.06104). The paper evicts at
    every token, ``every=1``; here in blocks, so that a plane holds less than ``every`` tokens above the
    budget in between.

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        every: tokens between two evictions.
    """
    return Recipe(LastQuery(), budget, when=EveryTokens(every), name="tova")


def snap_kv(budget: Budget = DEFAULT_BUDGET, *, window: int = 64, kernel: int = 5) -> Recipe:
    """The tokens that the last ``window`` attend to (Li et al. 2024, arXiv 2404.14469).

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        window: the last rows whose queries score the keys; they are kept themselves.
        kernel: tokens that scores are averaged over, an odd number.
    """
    return Recipe(WindowMass(window, kernel), budget, name="snap_kv")


def pyramid_kv(
    budget: Budget = DEFAULT_BUDGET,
    *,
    window: int = 64,
    kernel: int = 5,
    beta: int = 20,
    slope: Literal["fixed", "fitted"] = "fixed",
) -> Recipe:
    """SnapKV with budgets that fall from layer to layer (Cai et al. 2024, arXiv 2406.02069).
    ``slope="fitted"`` is kvpress's pyramid, which keeps equal budgets where the last layer's would not hold
    the window.

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        window: the last rows whose queries score the keys; they are kept themselves.
        kernel: tokens that scores are averaged over, an odd number.
        beta: the last layer gets ``1 / beta`` of the mean.
        slope: ``"fixed"``, or ``"fitted"`` as in kvpress.
    """
    return Recipe(WindowMass(window, kernel), budget, Pyramid(beta, slope), name="pyramid_kv")


def ada_kv(
    budget: Budget = DEFAULT_BUDGET,
    *,
    alpha: float = 0.2,
    blend: Literal["mix", "reserve"] = "mix",
    window: int = 64,
    kernel: int = 5,
) -> Recipe:
    """SnapKV with heads that compete for a layer's budget (Feng et al. 2024, arXiv 2407.11550).

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        alpha: the share of an equal budget that every head is sure of, 0 to 1.
        blend: ``"mix"`` blends with equal shares, as the authors' code does; ``"reserve"`` sets the share
            aside, as kvpress does.
        window: the last rows whose queries score the keys; they are kept themselves.
        kernel: tokens that scores are averaged over, an odd number.
    """
    return Recipe(WindowMass(window, kernel), budget, AcrossHeads(alpha, blend), name="ada_kv")


def expected_attention(
    budget: Budget = DEFAULT_BUDGET,
    *,
    future: int = 512,
    sinks: int = 4,
    inverse_frequencies: Sequence[float] | None = None,
) -> Recipe:
    """The tokens that queries yet to come are expected to attend to (Devoto et al. 2025, arXiv 2510.00636).
    Give ``inverse_frequencies`` for a model with rotary embeddings.

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        future: positions ahead over which queries are expected.
        sinks: tokens at the start that are kept anyway.
        inverse_frequencies: angles a position of the rotary embedding, `head_dim / 2`; in ``LM.generate``
            those of the model by default.
    """
    frequencies = None if inverse_frequencies is None else tuple(inverse_frequencies)
    score = ExpectedAttention(future, sinks, 0.0, frequencies)
    return Recipe(score, budget, name="expected_attention")


def key_diff(budget: Budget = DEFAULT_BUDGET) -> Recipe:
    """Keys unlike the others (Park et al. 2025, arXiv 2504.15364). Needs no queries.

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
    """
    return Recipe(KeyDifference(), budget, name="key_diff")


def knorm(budget: Budget = DEFAULT_BUDGET) -> Recipe:
    """Short keys (Devoto et al. 2024, arXiv 2406.11430). Needs no queries.

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
    """
    return Recipe(KeyNorm(), budget, name="knorm")


def prefix_kv(
    budget: Budget = DEFAULT_BUDGET, *, profile: Sequence[float] | None = None, sinks: int = 4
) -> Recipe:
    """The same share of every layer's accumulated probability, one ranking a layer (Wang et al. 2024, arXiv
    2412.03409). The paper's ratio is the part dropped; ``budget`` is the part kept. Needs the queries of
    all tokens.

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        profile: a weight a layer, as :meth:`hornbeam.keep.GlobalPrefix.calibrate` makes it; found from the
            scores by default.
        sinks: tokens at the start that are kept anyway.
    """
    score = AccumulatedMass(across_heads=True, sinks=sinks, recent=1, recent_percent=0)
    split = GlobalPrefix(None if profile is None else tuple(profile))
    return Recipe(score, budget, split, name="prefix_kv")


def ems(budget: Budget = DEFAULT_BUDGET, *, window: int = 32, kernel: int = 5) -> Recipe:
    """Global and local importance, then evict, then merge: our reading of the abstract of Li et al. 2024
    (arXiv 2412.08521), without a claim of parity. Needs the queries of all tokens.

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        window: the last rows whose queries score the keys; they are kept themselves.
        kernel: tokens that scores are averaged over, an odd number.
    """
    return Recipe(GlobalLocal(window, kernel), budget, reduce=EvictThenMerge(), name="ems")


def zip_cache(
    budget: Budget = "100%", *, low_share: float = 0.4, low_bits: int = 2, high_bits: int = 4, seed: int = 0
) -> Recipe:
    """Every token in 4 bits, or in 2 where its normalised probability is low (He et al. 2024, arXiv
    2405.14256). Drops nothing unless ``budget`` says so. A hundred tokens of decoding stay exact until they
    are encoded together, and so do those that do not fill a page of their class.

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        low_share: the share of tokens, those of lowest score, that get fewer bits.
        low_bits: bits of these: 2 or 4.
        high_bits: bits of the others.
        seed: of the random probes.
    """
    reduce = MixedBits(low_share, low_bits, high_bits)
    return Recipe(NormalisedMass(seed=seed), budget, reduce=reduce, when=EveryTokens(100), name="zip_cache")


def kivi(budget: Budget = "100%", *, bits: int = 2, group: int = 32, residual: int = 32) -> Recipe:
    """Keys by channel and values by token in 2 bits (Liu et al. 2024, arXiv 2402.02750), but for the last
    ``residual`` tokens and those before them that do not fill a page. Drops nothing unless ``budget`` says
    so, and then the oldest tokens but for four sinks.

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        bits: of a code: 2 or 4.
        group: tokens that share a step of keys, and channels that share one of values.
        residual: the newest tokens, which stay exact.
    """
    reduce = KeyChannelValueToken(bits, group, residual)
    return Recipe(Position(), budget, reduce=reduce, when=EveryTokens(group), name="kivi")


def int8(budget: Budget = "100%", *, bits: int = 8) -> Recipe:
    """Keys and values by token in 8 bits (or 4, or 2), a head's row a block, as serving stacks store them.
    Drops nothing unless ``budget`` says so, and then the oldest tokens but for four sinks.

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        bits: of a code: 8, 4 or 2.
    """
    return Recipe(Position(), budget, reduce=TokenBits(bits), when=EveryTokens(32), name=f"int{bits}")


def window_kv(
    budget: Budget = DEFAULT_BUDGET, *, pool: Literal["mean", "max"] = "mean", beta: int = 14
) -> Recipe:
    """Windows of eight tokens, groups of eight layers (Zuo et al. 2025, arXiv 2503.17922). ``pool`` is
    "max" for tasks that look one thing up and "mean" for those that gather.

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        pool: how a window is scored: ``"mean"``, or ``"max"`` for its greater half.
        beta: the last group of layers gets ``8 / beta`` of the mean.
    """
    return Recipe(WindowTokens(pool=pool), budget, LayerGroups(8, beta), name="window_kv")


def sparse_mm(
    budget: Budget = DEFAULT_BUDGET,
    *,
    head_scores: HeadScores | Tensor | Sequence[Sequence[float]],
    window: int = 32,
    kernel: int = 5,
) -> Recipe:
    """SnapKV with budgets by calibrated ``head_scores`` (Wang et al. 2025, arXiv 2506.05344).

    Args:
        budget: tokens a kv head (``1024``), a ratio (``"30%"``) or bytes a sequence (``"64MB"``).
        head_scores: what :func:`hornbeam.keep.head_scores` measured, or `[L][Hk]` numbers, not negative.
        window: the last rows whose queries score the keys; they are kept themselves.
        kernel: tokens that scores are averaged over, an odd number.
    """
    if not isinstance(head_scores, HeadScores):
        rows = head_scores.tolist() if isinstance(head_scores, Tensor) else head_scores
        head_scores = HeadScores(tuple(tuple(row) for row in rows))
    return Recipe(WindowMass(window, kernel), budget, head_scores, name="sparse_mm")


# Those that need no argument.
NAMED_RECIPES.update({name: globals()[name] for name in __all__ if name != "sparse_mm"})
