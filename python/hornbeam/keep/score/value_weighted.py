"""VATP: another score times the norm of the value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.keep.score.base import MomentsOfQueries, Score
from hornbeam.keep.score.window_mass import WindowMass

__all__ = ["ValueWeighted"]


@dataclass(frozen=True)
class ValueWeighted(Score):
    """Another score, not negative, times the norm of the value: the sum of magnitudes as in VATP (arXiv
    2406.12335), or "l2". The other score may be one in Python.

    Args:
        score: the other score.
        norm: ``"l1"``, the sum of magnitudes, or ``"l2"``.

    Raises:
        ArgumentError: ``norm`` is neither "l1" nor "l2", or the other score reads the inputs of attention.
    """

    native: ClassVar[str] = "value_weighted"
    score: Score = field(default_factory=WindowMass)
    norm: Literal["l1", "l2"] = "l1"

    def __post_init__(self) -> None:
        if self.is_native:
            super().__post_init__()
            return
        self.score.require_method()
        name = type(self.score).__name__
        if self.score.reads_inputs:
            raise ArgumentError(
                f"score is {name}, which reads what attention is given, expected another score"
            )
        if self.norm not in ("l1", "l2"):
            raise ArgumentError(f'norm is {self.norm!r}, expected "l1" or "l2"')

    @property
    def is_native(self) -> bool:
        """Whether the other score is in Rust too."""
        return self.score.is_native and self._weighs_as_here

    @property
    def _weighs_as_here(self) -> bool:
        """Whether no subclass scores otherwise."""
        return type(self).scores is ValueWeighted.scores

    @property
    def protected(self) -> tuple[int, int, int]:
        """What the other score protects."""
        return self.score.protected

    @property
    def unit(self) -> int:
        """That of the other score."""
        return self.score.unit

    @property
    def moments(self) -> MomentsOfQueries | None:
        """Those that the other score needs."""
        return self.score.moments if self._weighs_as_here else None

    def row_sets(self, num_tokens: int) -> list[tuple[int | None, list[int] | None]]:
        """Those of the other score."""
        return self.score.row_sets(num_tokens) if self._weighs_as_here else super().row_sets(num_tokens)

    def with_frequencies(self, inverse_frequencies: tuple[float, ...]) -> ValueWeighted:
        """Gives them to the other score."""
        return dataclasses.replace(self, score=self.score.with_frequencies(inverse_frequencies))

    def scores(self, keys: Tensor, values: Tensor, queries: Tensor, scale: float) -> Tensor:
        """As :meth:`Score.scores`."""
        if self.is_native:
            return super().scores(keys, values, queries, scale)
        weights = values.double().norm(p=1 if self.norm == "l1" else 2, dim=-1).transpose(0, 1)
        found = self.score.evaluate(keys, values, queries, scale)
        return (found.double() * weights).float()
