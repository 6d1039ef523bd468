"""Mean and covariance of all queries of a sequence, added up while it is read."""

from __future__ import annotations

import copy
from collections.abc import Sequence as Seq

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["QueryMoments"]


class QueryMoments:
    """QueryMoments of the queries of every head, each query turned back to position 0.

    They take the place of the queries themselves, and of a head need no more memory than `D` queries in
    float64. Batches are combined as Chan, Golub and LeVeque do (1983).

    Args:
        sinks: rows before this position count only until there is another.
        frequencies: `D / 2` angles a position that queries are rotated by (halves paired); None for none.
    """

    def __init__(self, sinks: int, frequencies: Seq[float] | None) -> None:
        self.sinks = sinks
        self.frequencies = None if frequencies is None else torch.tensor(frequencies, dtype=torch.float64)
        self.count = 0
        self.only_sinks = True
        self.mean = torch.empty(0)  # [L, H, D]
        self.scatter = torch.empty(0)  # [L, H, D, D]: sums of products of differences from the mean

    def fork(self) -> QueryMoments:
        """The same, to which other queries can be added."""
        child = copy.copy(self)
        child.mean, child.scatter = self.mean.clone(), self.scatter.clone()
        return child

    def add(self, positions: NDArray[np.int32], rows: Tensor) -> None:
        """Adds `rows [L, H, R, D]`, rotated to ``positions``, which ascend."""
        stay = positions >= self.sinks
        if not stay.any():
            if not self.only_sinks or len(positions) == 0:
                return
            stay[-1] = True
            self.count = 0
        elif self.only_sinks:
            self.only_sinks, self.count = False, 0
        rows, positions = rows[:, :, torch.from_numpy(np.flatnonzero(stay)).to(rows.device)], positions[stay]
        if self.count == 0:
            layers, heads, _, dim = rows.shape
            self.mean = torch.zeros(layers, heads, dim, dtype=torch.float64, device=rows.device)
            self.scatter = self.mean.new_zeros(layers, heads, dim, dim)
        back = None
        if self.frequencies is not None:
            angles = -torch.from_numpy(positions).double()[:, None] * self.frequencies
            back = angles.cos().to(rows.device), angles.sin().to(rows.device)
        added = len(positions)
        total = self.count + added
        for layer, own in enumerate(rows):
            queries = own.double()
            if back is not None:
                queries = _turned(queries, *back)
            mean = queries.mean(1)
            queries -= mean[:, None]
            apart = mean - self.mean[layer]
            self.scatter[layer].baddbmm_(queries.mT, queries)
            self.scatter[layer] += (self.count * added / total) * apart[:, :, None] * apart[:, None, :]
            self.mean[layer] += (added / total) * apart
        self.count = total

    def expected(self, num_seen: int, future: int) -> tuple[Tensor, Tensor]:
        """Mean `[L, H, D]` and covariance `[L, H, D, D]`, float64, turned by the mean rotation of the
        ``future`` positions from ``num_seen`` on. There is at least one query."""
        mean, covariance = self.mean, self.scatter / self.count
        if self.frequencies is None:
            return mean, covariance
        angles = torch.arange(num_seen, num_seen + future, dtype=torch.float64)[:, None] * self.frequencies
        ahead = angles.cos().mean(0).to(mean.device), angles.sin().mean(0).to(mean.device)
        covariance = _turned(_turned(covariance, *ahead).mT, *ahead)
        return _turned(mean, *ahead), covariance


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The pairs `(x[i], x[i + D/2])`, as complex numbers, times `(cos, sin)`."""
    low, high = x.chunk(2, -1)
    return torch.cat([low * cos - high * sin, low * sin + high * cos], -1)
