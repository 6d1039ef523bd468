"""ZipCache: fewer bits for the tokens that matter least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.keep.quantise import Quantised, encode
from hornbeam.keep.reduce.page_codes import PageCodes

__all__ = ["MixedBits"]


@dataclass(frozen=True)
class MixedBits(PageCodes):
    """The lowest ``low_share`` of tokens by score in ``low_bits``, the others in ``high_bits``. Keys by
    channel over the tokens of a class, values by token after their channels were brought to one size.
    ZipCache (arXiv 2405.14256), whose value rows span all heads of a layer; here a
    row is one head's, since heads are stored apart.

    Args:
        low_share: the share of tokens, those of lowest score, that get fewer bits.
        low_bits: bits of these: 2 or 4.
        high_bits: bits of the others.
    """

    low_share: float = 0.4
    low_bits: int = 2
    high_bits: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.low_share <= 1:
            raise ArgumentError(f"low_share is {self.low_share}, expected a number from 0 to 1")
        super().__post_init__()

    def codes(
        self, keys: Tensor, values: Tensor, scores: Tensor
    ) -> list[tuple[Tensor, Quantised, Quantised]]:
        """A part for each of the two classes, see :meth:`PageCodes.codes`."""
        low, high = self._classes(scores)
        parts = [(low.sort().values, self.low_bits), (high.sort().values, self.high_bits)]
        return [
            (
                indices,
                encode(keys[indices], bits, tokens=None, channels=1),
                encode(values[indices], bits, channel_separable=True),
            )
            for indices, bits in parts
        ]

    def _classes(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        # Stable, from the lowest score up: ties go to the lower class by lowest index.
        order = torch.sort(scores, stable=True).indices
        low = int(len(order) * self.low_share)
        return order[:low], order[low:]

    @property
    def formats(self) -> tuple[str, ...]:
        """The low one, then the high one."""
        return f"zip_cache{self.low_bits}", f"zip_cache{self.high_bits}"

    def classes(self, scores: Tensor, held: Tensor) -> Tensor:
        """The lowest by score of those that are plain, until ``low_share`` of all are low; see
        :meth:`PageCodes.classes`."""
        plain = (held < 0).nonzero().flatten()
        low = int(len(scores) * self.low_share) - int((held == 0).sum())
        classes = torch.full((len(scores),), -1, device="cpu")
        classes[plain] = 1
        order = torch.sort(scores[plain], stable=True).indices
        classes[plain[order[: max(low, 0)]]] = 0
        return classes
