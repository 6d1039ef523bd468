"""Sparse attention: which keys are read, and which are merely kept. Estimate x select, per row.

:mod:`hornbeam.recipes` has the published methods.
"""

from hornbeam.attend import estimate, prefill, select
from hornbeam.attend.estimate import ESTIMATES, Bounds, Estimate, Mean
from hornbeam.attend.prefill import (
    BlockSelection,
    FlexPrefill,
    HeadPattern,
    HeadPatterns,
    MInference,
    search_patterns,
)
from hornbeam.attend.recipe import Group, Recipe
from hornbeam.attend.select import SELECTIONS, Always, Elbow, Select, Threshold, TopK, TopP
from hornbeam.methods import export

__all__ = [
    "Always",
    "BlockSelection",
    "Bounds",
    "Elbow",
    "Estimate",
    "FlexPrefill",
    "Group",
    "HeadPattern",
    "HeadPatterns",
    "MInference",
    "Mean",
    "Recipe",
    "Select",
    "Threshold",
    "TopK",
    "TopP",
    "estimate",
    "prefill",
    "search_patterns",
    "select",
]

export(globals(), ESTIMATES, SELECTIONS)  # those of files that are not named above, too
