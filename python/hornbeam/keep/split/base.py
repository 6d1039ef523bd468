"""What all splits do, and how one in Python hands out its budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native, cuda
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.keep.factor import Factor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Split"]


@dataclass(frozen=True)
class Split(Factor):
    """Base of all splits. One of your own overrides :meth:`budgets`."""

    kind: ClassVar[str] = "split"
    method: ClassVar[str] = "budgets"

    def budgets(self, scores: Tensor, total: int, protected: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
        """Tokens for each plane, int32 `[L, Hk]`, from scores `[L, Hk, N]` of one sequence. They sum to
        ``total``, or to `L * Hk * N` where that is less.

        Of a split in Python they may sum to less. Where planes hold different numbers of keys while a text is
        generated, it sees the scores of the shorter ones filled up with -inf; what a plane gets beyond the
        keys that it holds stays unused.

        Args:
            scores: `[L, Hk, N]`, of one sequence.
            total: tokens that stay, over all planes.
            protected: as :attr:`hornbeam.keep.Score.protected`.
        """
        self.require_method()
        return self.select(scores, total, protected, 1)[0]

    def select(
        self, scores: Tensor, total: int, protected: tuple[int, int, int], unit: int
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`budgets`, and which tokens stay, bool `[L, Hk, N]`, where the scores are.

        Args:
            scores: `[L, Hk, N]`, of one sequence.
            total: tokens that stay, over all planes.
            protected: as :attr:`hornbeam.keep.Score.protected`.
            unit: as :attr:`hornbeam.keep.Score.unit`: tokens that stay or go together.
        """
        layers, heads, tokens = scores.shape
        counts = np.full((layers, heads), tokens, np.int32)
        positions = np.tile(np.arange(tokens, dtype=np.int32), layers * heads)
        budgets, kept = self.select_resident(scores.flatten(), counts, positions, total, protected, unit)
        return budgets, kept.view(scores.shape)

    def select_resident(
        self,
        scores: Tensor,
        counts: NDArray[np.int32],
        positions: NDArray[np.int32],
        total: int,
        protected: tuple[int, int, int],
        unit: int,
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`select`, of planes that may hold different numbers of keys.

        Args:
            scores: `[T]`, plane after plane.
            counts: int32 `[L, Hk]`, the keys of each plane.
            positions: int32 `[T]`, where in the text the keys stand, ascending in each plane.
            total: tokens that stay, over all planes.
            protected: as :attr:`hornbeam.keep.Score.protected`.
            unit: as :attr:`hornbeam.keep.Score.unit`.

        Returns:
            Budgets, int32 `[L, Hk]`, and which keys stay, bool `[T]`, where the scores are.

        Raises:
            ShapeError: a split in Python gives budgets of another shape.
            ArgumentError: a split in Python hands out more than ``total``.
        """
        if self.is_native and cuda.is_on_device(scores):
            return cuda.select_keys(self.spec(), scores, counts, positions, total, protected, unit)
        device, scores = scores.device, scores.detach().to("cpu", torch.float32).contiguous()
        budgets = torch.empty(counts.shape, dtype=torch.int32, device="cpu")
        kept = torch.empty(len(scores), dtype=torch.bool, device="cpu")
        if self.is_native:
            _native.keep_select(self.spec(), scores, counts, positions, total, protected, unit, budgets, kept)
            return budgets, kept
        budgets = self._own_budgets(scores, counts, total, protected)
        # The best of each plane: a plane by itself has its whole budget under any split.
        ends = np.cumsum(counts)
        for begin, end, share in zip(ends - counts.ravel(), ends, budgets.flatten().tolist(), strict=True):
            own, one = slice(begin, end), np.array([[end - begin]], np.int32)
            share_of_one = torch.empty(1, 1, dtype=torch.int32, device="cpu")
            rule = share, protected, unit, share_of_one, kept[own]
            _native.keep_select(("uniform", {}), scores[own], one, positions[own], *rule)
        return budgets, kept.to(device)

    def _own_budgets(
        self, scores: Tensor, counts: NDArray[np.int32], total: int, protected: tuple[int, int, int]
    ) -> Tensor:
        """What :meth:`budgets` of a subclass gives, no more than each plane holds."""
        self.require_method()
        name, shape = type(self).__name__, tuple(counts.shape)
        table = torch.full(
            (counts.size, int(counts.max(initial=0))), -torch.inf, dtype=torch.float32, device="cpu"
        )
        for row, own in zip(table, scores.split(counts.ravel().tolist()), strict=True):
            row[: len(own)] = own
        found = self.budgets(table.view(*shape, -1), total, protected)
        if not isinstance(found, Tensor) or found.shape != shape:
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ShapeError(f"{name}.budgets gave {got}, expected {list(shape)}")
        found = found.detach().cpu().long()
        if int(found.sum()) > total or int(found.min()) < 0:
            raise ArgumentError(
                f"{name}.budgets gave {found.tolist()}, expected none below 0, {total} in all"
            )
        return torch.minimum(found, torch.from_numpy(counts).long()).int()
