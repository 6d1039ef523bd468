"""Eviction, merging and quantisation of the KV cache: when x score x split x reduce.

:mod:`hornbeam.recipes` has the published methods. :func:`plan` and :func:`reduce` run one on arrays.
"""

from hornbeam.keep import quantise, rotate
from hornbeam.keep.budget import Budget, resolve
from hornbeam.keep.calibrate import Example, head_scores
from hornbeam.keep.recipe import Recipe, plan, reduce
from hornbeam.keep.reduce import (
    REDUCTIONS,
    Drop,
    EvictThenMerge,
    KeyChannelValueToken,
    Merge,
    MixedBits,
    PageCodes,
    Reduce,
    Reduced,
    SimilarityMerge,
    TokenBits,
    ValueMerge,
)
from hornbeam.keep.score import (
    SCORES,
    AccumulatedMass,
    ExpectedAttention,
    GlobalLocal,
    KeyDifference,
    KeyNorm,
    LastQuery,
    NormalisedMass,
    Position,
    Score,
    ValueWeighted,
    WindowMass,
    WindowTokens,
)
from hornbeam.keep.split import (
    SPLITS,
    AcrossHeads,
    GlobalPrefix,
    HeadScores,
    LayerGroups,
    Pyramid,
    Split,
    Uniform,
)
from hornbeam.keep.when import MOMENTS, AfterPrefill, CacheState, EveryTokens, OnPressure, When
from hornbeam.methods import export

__all__ = [
    "AccumulatedMass",
    "AcrossHeads",
    "AfterPrefill",
    "Budget",
    "CacheState",
    "Drop",
    "EveryTokens",
    "EvictThenMerge",
    "Example",
    "ExpectedAttention",
    "GlobalLocal",
    "GlobalPrefix",
    "HeadScores",
    "KeyChannelValueToken",
    "KeyDifference",
    "KeyNorm",
    "LastQuery",
    "LayerGroups",
    "Merge",
    "MixedBits",
    "NormalisedMass",
    "OnPressure",
    "PageCodes",
    "Position",
    "Pyramid",
    "Recipe",
    "Reduce",
    "Reduced",
    "Score",
    "SimilarityMerge",
    "Split",
    "TokenBits",
    "Uniform",
    "ValueMerge",
    "ValueWeighted",
    "When",
    "WindowMass",
    "WindowTokens",
    "head_scores",
    "plan",
    "quantise",
    "reduce",
    "resolve",
    "rotate",
]

export(globals(), SCORES, SPLITS, REDUCTIONS, MOMENTS)  # those of files that are not named above, too
