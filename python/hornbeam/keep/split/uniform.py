"""The same to every plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hornbeam.keep.split.base import Split

__all__ = ["Uniform"]


@dataclass(frozen=True)
class Uniform(Split):
    """The same to every plane."""

    native: ClassVar[str] = "uniform"
