"""The mean of a page's keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.attend.estimate.base import Estimate

__all__ = ["Mean"]


@dataclass(frozen=True)
class Mean(Estimate):
    """The mean of a page's keys, rotated as they lie there. The score of a page is its product with the
    query: the mean of the keys' own scores, which lies above none of the page's greatest. MoBA (Lu et al.
    2025, arXiv 2502.13189, section 2.2) chooses blocks so."""

    native: ClassVar[str] = "mean"
