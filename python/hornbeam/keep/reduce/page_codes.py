"""What all reductions that store codes have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.keep.quantise import Quantised
from hornbeam.keep.reduce.base import Reduce, Reduced

__all__ = ["PageCodes"]


@dataclass(frozen=True)
class PageCodes(Reduce):
    """Base of what drops the rest, then stores what is kept in codes. One of your own overrides :meth:`codes`
    for arrays, :attr:`formats` and :meth:`classes` for pages."""

    native: ClassVar[str] = "drop"
    stores_codes: ClassVar[bool] = True

    @property
    def changes_kept(self) -> bool:
        """No: codes go to pages of their own, and what is not encoded stays as it is."""
        return False

    def __post_init__(self) -> None:
        # Construction checks the parameters by encoding nothing.
        self.codes(
            torch.zeros(0, 1, device="cpu"), torch.zeros(0, 1, device="cpu"), torch.zeros(0, device="cpu")
        )

    def spec(self) -> tuple[str, dict[str, float]]:
        """That of dropping the rest; how codes are laid out is Python's."""
        return self.native, {}

    def codes(
        self, keys: Tensor, values: Tensor, scores: Tensor
    ) -> list[tuple[Tensor, Quantised, Quantised]]:
        """What of a plane is encoded, and how.

        Args:
            keys: float32 `[K, D]`, what is kept.
            values: float32 `[K, D]`.
            scores: `[K]`.

        Returns:
            Parts: (indices into the plane, keys, values). What no part names is not encoded.
        """
        raise ArgumentError(f"{type(self).__name__} has no method codes, expected a class that overrides it")

    def page_formats(self, scores: Tensor) -> list[str | None]:
        """The format of pages that each kept key of a plane shall have, for
        :meth:`hornbeam.PrefixTree.quantise`; None stays plain. There, a class that has its blocks over all
        of its tokens here has them page by page.

        Args:
            scores: `[K]`, of the kept keys in order of position.
        """
        names: list[str | None] = [*self.formats, None]
        return [names[i] for i in self.classes(scores, torch.full((len(scores),), -1, device="cpu")).tolist()]

    def reduce(self, keys: Tensor, values: Tensor, scores: Tensor, kept: Tensor) -> Reduced:
        """As :meth:`Reduce.reduce`; keys and values come back decoded, with the bytes of their codes."""
        size = keys.element_size()
        plain = super().reduce(keys, values, scores, kept)
        k, v = plain.keys, plain.values
        num_bytes = 2 * k.numel() * size
        for indices, part_keys, part_values in self.codes(k, v, scores.cpu()[plain.kept]):
            num_bytes += part_keys.num_bytes + part_values.num_bytes - 2 * len(indices) * k.shape[1] * size
            k[indices], v[indices] = part_keys.decode(), part_values.decode()
        return Reduced(plain.kept, k, v, plain.merge, num_bytes)
