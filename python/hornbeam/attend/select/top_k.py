"""The pages of the highest scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hornbeam.attend.select.base import Select, pages_or_share

__all__ = ["TopK"]


@dataclass(frozen=True)
class TopK(Select):
    """The ``pages`` pages of the highest scores, those that are always read among them.

    Args:
        pages: how many, ``64``, or which share of all pages of the row's text, ``"12%"``, rounded up.
    """

    native: ClassVar[str] = "topk"
    pages: int | str = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        pages_or_share(self.pages, "pages")

    @property
    def numbers(self) -> dict[str, Any]:
        """``k`` or ``share``."""
        return pages_or_share(self.pages, "pages")
