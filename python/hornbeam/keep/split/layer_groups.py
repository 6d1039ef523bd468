"""WindowKV: groups of layers that keep the same tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.keep.split.base import Split

__all__ = ["LayerGroups"]


@dataclass(frozen=True)
class LayerGroups(Split):
    """``size`` consecutive layers keep what the first of them says; budgets fall linearly over groups, the
    last getting ``size / beta`` of the mean. WindowKV (arXiv 2503.17922).

    Args:
        size: layers of a group.
        beta: the last group gets ``size / beta`` of the mean.
    """

    native: ClassVar[str] = "layer_groups"
    size: int = 8
    beta: int = 14
