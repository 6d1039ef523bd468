"""KIVI: keys by channel, values by token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.keep.quantise import Quantised, encode
from hornbeam.keep.reduce.page_codes import PageCodes

__all__ = ["KeyChannelValueToken"]


@dataclass(frozen=True)
class KeyChannelValueToken(PageCodes):
    """Keys by channel over ``group`` tokens, values by token over ``group`` channels; the last ``residual``
    tokens, and what does not fill a group before them, stay as they are. KIVI (arXiv 2402.02750)
    with the group and residual of its released code.

    Args:
        bits: of a code: 2 or 4.
        group: tokens that share a step of keys, and channels that share one of values.
        residual: the newest tokens, which stay as they are.
    """

    bits: int = 2
    group: int = 32
    residual: int = 32

    def __post_init__(self) -> None:
        if self.residual < 0:
            raise ArgumentError(f"residual is {self.residual}, expected at least 0")
        super().__post_init__()

    def codes(
        self, keys: Tensor, values: Tensor, scores: Tensor
    ) -> list[tuple[Tensor, Quantised, Quantised]]:
        """The oldest tokens in whole groups, see :meth:`PageCodes.codes`."""
        indices = torch.arange(self._sealed(len(keys)), device="cpu")
        return [
            (
                indices,
                encode(keys[indices], self.bits, tokens=self.group, channels=1),
                encode(values[indices], self.bits, channels=self.group),
            )
        ]

    def _sealed(self, tokens: int) -> int:
        return max(tokens - self.residual, 0) // max(self.group, 1) * self.group

    @property
    def formats(self) -> tuple[str, ...]:
        """One; pages have groups of 32, and another ``group`` raises ArgumentError."""
        if self.group != 32:
            raise ArgumentError(f"group is {self.group}, expected 32, the group of pages in codes")
        return (f"kivi{self.bits}",)

    def classes(self, scores: Tensor, held: Tensor) -> Tensor:
        """The oldest of those that are plain, in whole groups; see :meth:`PageCodes.classes`."""
        plain = (held < 0).nonzero().flatten()
        classes = torch.full((len(scores),), -1, device="cpu")
        classes[plain[: self._sealed(len(plain))]] = 0
        return classes
