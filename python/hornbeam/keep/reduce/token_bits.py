"""Codes by token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hornbeam.keep.quantise import Quantised, encode
from hornbeam.keep.reduce.page_codes import PageCodes

__all__ = ["TokenBits"]


@dataclass(frozen=True)
class TokenBits(PageCodes):
    """Keys and values by token, a row of a head a block: int8 unless told otherwise.

    Args:
        bits: of a code: 8, 4 or 2.
    """

    bits: int = 8

    def codes(
        self, keys: Tensor, values: Tensor, scores: Tensor
    ) -> list[tuple[Tensor, Quantised, Quantised]]:
        """Everything as one part, see :meth:`PageCodes.codes`."""
        return [(torch.arange(len(keys), device="cpu"), encode(keys, self.bits), encode(values, self.bits))]

    @property
    def formats(self) -> tuple[str, ...]:
        """One."""
        return (f"int{self.bits}",)

    def classes(self, scores: Tensor, held: Tensor) -> Tensor:
        """All that are plain; see :meth:`PageCodes.classes`."""
        return torch.where(held < 0, 0, -1)
