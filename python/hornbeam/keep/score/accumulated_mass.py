"""H2O: attention mass summed over all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.keep.score.base import Score

__all__ = ["AccumulatedMass"]


@dataclass(frozen=True)
class AccumulatedMass(Score):
    """Probability summed over all rows, mean over the query heads of the group: needs the queries of every
    token. H2O (arXiv 2306.14048), which gives half of the budget to the newest tokens. With
    ``across_heads`` the mean runs over the layer, as in PrefixKV (arXiv 2412.03409).

    Args:
        across_heads: rank the tokens of a layer once, for all its heads.
        sinks: tokens at the start that are kept anyway.
        recent: tokens at the end that are kept anyway.
        recent_percent: the percentage of a plane's budget that goes to the newest tokens, where that is more.
    """

    native: ClassVar[str] = "accumulated_mass"
    across_heads: bool = False
    sinks: int = 0
    recent: int = 0
    recent_percent: int = 50
