"""Sparse attention: which keys are read, and which are merely kept. Estimate x select, per row.

:mod:`hornbeam.recipes` has the published methods. :func:`plan` and :func:`recall` study one on arrays.
"""

from hornbeam.attend import estimate, prefill, select
from hornbeam.attend.estimate import ESTIMATES, Bounds, Estimate, Mean
from hornbeam.attend.measures import Recall, missed, recall
from hornbeam.attend.observe import Seen, observe
from hornbeam.attend.prefill import (
    BlockSelection,
    FlexPrefill,
    HeadPattern,
    HeadPatterns,
    InParts,
    MInference,
    search_patterns,
)
from hornbeam.attend.recipe import Group, Recipe
from hornbeam.attend.select import SELECTIONS, Always, Elbow, Select, Threshold, TopK, TopP
from hornbeam.attend.selected import Selected
from hornbeam.attend.study import plan
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
    "InParts",
    "MInference",
    "Mean",
    "Recall",
    "Recipe",
    "Seen",
    "Select",
    "Selected",
    "Threshold",
    "TopK",
    "TopP",
    "estimate",
    "missed",
    "observe",
    "plan",
    "prefill",
    "recall",
    "search_patterns",
    "select",
]

export(globals(), ESTIMATES, SELECTIONS)  # those of files that are not named above, too
