"""Sparse prefill: which blocks of a prompt's keys its rows read, a method a file."""

from hornbeam.attend.prefill.base import BlockSelection, PrefillRecipe
from hornbeam.attend.prefill.cost import CostModel
from hornbeam.attend.prefill.flex_prefill import FlexPrefill
from hornbeam.attend.prefill.in_parts import InParts
from hornbeam.attend.prefill.lines import Grid
from hornbeam.attend.prefill.minference import HeadPattern, HeadPatterns, MInference
from hornbeam.attend.prefill.pattern_search import search_patterns

__all__ = [
    "BlockSelection",
    "CostModel",
    "FlexPrefill",
    "Grid",
    "HeadPattern",
    "HeadPatterns",
    "InParts",
    "MInference",
    "PrefillRecipe",
    "search_patterns",
]
