"""Attention expected of queries that are yet to come."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from hornbeam.keep.score.base import MomentsOfQueries, Score

__all__ = ["ExpectedAttention"]


@dataclass(frozen=True)
class ExpectedAttention(Score):
    """Probability expected under queries yet to come, times the norm of the value (arXiv 2510.00636).

    Queries are taken as Gaussian, with the mean and covariance of those given, from after the ``sinks``; the
    probability is that among the keys after the sinks, as kvpress, the authors' code, has it.
    With ``inverse_frequencies`` (`head_dim / 2`, rotary by halves as in Llama) they are turned back first,
    then by the average rotation of the next ``future`` positions; without them they are used as given.
    kvpress takes its statistics from hidden states; the outcome is the same for all rows of a prompt.

    Args:
        future: positions ahead over which queries are expected.
        sinks: tokens at the start that are kept anyway.
        epsilon: added to each probability before it is multiplied by the norm of the value.
        inverse_frequencies: angles a position of the rotary embedding; in ``LM.generate`` those of the model
            by default.
    """

    native: ClassVar[str] = "expected_attention"
    future: int = 512
    sinks: int = 4
    epsilon: float = 0.0
    inverse_frequencies: tuple[float, ...] | None = None

    @property
    def moments(self) -> MomentsOfQueries | None:
        """Those of all queries from after the sinks."""
        if not self.is_native:
            return None
        return MomentsOfQueries(self.sinks, self.future, self.inverse_frequencies)

    def with_frequencies(self, inverse_frequencies: tuple[float, ...]) -> ExpectedAttention:
        """With these frequencies, unless it has some."""
        if self.inverse_frequencies is not None:
            return self
        return dataclasses.replace(self, inverse_frequencies=inverse_frequencies)
