"""Scores from the mass of keys, on the device: integers, and the f64 operations of the CPU one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.cuda.device import lane, upload

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MassScores"]

#: Mass of probability 1, as `MASS_ONE` of the core.
ONE = float(1 << 39)


class MassScores:
    """Keys of all planes, and what a score needs of the mass of some rows.

    Args:
        counts: int32 `[P]`, keys of each plane.
        positions: int32 `[T]`, plane after plane, ascending in each.
        masses: for each of the sets of rows that the score needs, int64 `[T]` sums on the device, and int32
            `[T]`, how many of the rows saw the key, on the host.
        num_seen: tokens seen so far.
        num_kv_heads: planes of a layer.
        group: query heads of a kv head.
    """

    def __init__(
        self,
        counts: NDArray[np.int32],
        positions: NDArray[np.int32],
        masses: list[tuple[Tensor, NDArray[np.int32]]],
        *,
        num_seen: int,
        num_kv_heads: int,
        group: int,
        device: torch.device,
    ) -> None:
        self.masses, self.num_seen = masses, num_seen
        self.heads, self.group = num_kv_heads, group
        self.num_planes, self.total = len(counts), len(positions)
        ends = np.cumsum(counts, dtype=np.int64)
        tables = [np.arange(len(counts)), ends - counts, ends, positions.astype(np.int64)]
        planes, begins, ends_there, self.positions = upload([torch.from_numpy(t) for t in tables], device)
        self.plane = planes.repeat_interleave(
            torch.from_numpy(counts).to(device, torch.int64), output_size=self.total
        )
        #: Of each key: where its plane begins, and where that ends.
        self.begin, self.end = begins[self.plane], ends_there[self.plane]
        self.begins = torch.cat([begins, ends_there[-1:]]).to(torch.int32)
        self.index = torch.arange(self.total, device=device)

    def scores(self, name: str, params: dict[str, Any]) -> Tensor:
        """Float32 `[T]` of the score of that name: the bits of the CPU."""
        found: Tensor = getattr(self, f"_{name}")(**params)
        return found

    def _over(self, sums: Tensor, number: float) -> Tensor:
        """A quotient as IEEE has it: torch's kernels multiply by the reciprocal of a number of the host."""
        return sums.double() / torch.full((), number, dtype=torch.float64, device=sums.device)

    def _mean(self, sums: Tensor, count: int | Tensor) -> Tensor:
        if isinstance(count, int):
            return self._over(sums, ONE * max(count, 1)).float()
        return (sums.double() / (ONE * count.clamp_min(1).double())).float()

    def _pooled(self, sums: Tensor, kernel: int, end: Tensor) -> Tensor:
        """Moving sums within each plane, of what lies before ``end``."""
        before = torch.cat([sums.new_zeros(1), sums.cumsum(0)])
        half = kernel // 2
        low, high = (self.index - half).maximum(self.begin), (self.index + half + 1).minimum(end)
        return before[high.maximum(low)] - before[low]

    def _by_layer(self, sums: Tensor) -> Tensor:
        """Sums over the heads of a layer, matched by position."""
        at = self.plane // self.heads * self.num_seen + self.positions
        totals = sums.new_zeros(self.num_planes // self.heads * self.num_seen)
        return totals.scatter_add_(0, at, sums)[at]

    def _position(self, sinks: int) -> Tensor:
        return (self.index - self.begin).float()

    def _window_mass(self, window: int, kernel: int) -> Tensor:
        sums = self.masses[0][0]
        end = (self.end - window).maximum(self.begin)
        count = min(window, self.num_seen) * self.group
        pooled = self._mean(self._pooled(sums, kernel, end), count * kernel)
        return torch.where(self.index < end, pooled, self._mean(sums, count))

    def _accumulated_mass(self, across_heads: bool, **_: int) -> Tensor:
        sums = self.masses[0][0]
        if across_heads:
            return self._mean(self._by_layer(sums), self.heads * self.group)
        return self._mean(sums, self.group)

    def _last_query(self) -> Tensor:
        return self._mean(self._by_layer(self.masses[0][0]), self.heads * self.group)

    def _normalised_mass(self, **_: float) -> Tensor:
        sums, seen = self.masses[0]
        return self._mean(sums, torch.from_numpy(seen).to(sums.device, torch.int64) * self.group)

    def _global_local(self, window: int, kernel: int) -> Tensor:
        (near, _), (sums, seen) = self.masses
        one = ONE * self.group
        local_count = one * (min(window, self.num_seen) * kernel)
        local = self._over(self._pooled(near, kernel, self.end), local_count)
        whole = sums.double() / (one * torch.from_numpy(seen).to(sums.device).double())
        both = torch.stack([local, whole])
        found = torch.empty(2, self.num_planes, dtype=torch.float64, device=sums.device)
        for values, out in zip(both, found, strict=True):
            _native.cuda_plane_sums(lane(), values.view(torch.int64), self.begins, out.view(torch.int64))
        ratio = found[0] / found[1].fmax(torch.full_like(found[1], np.finfo(np.float64).tiny))
        return local.fmax(whole * ratio[self.plane]).float()

    def _window_tokens(self, window: int, suffix: int | None, pool: str) -> Tensor:
        sums = self.masses[0][0]
        suffix = suffix or (16 if pool == "mean" else 32)
        layers, layer = self.num_planes // self.heads, self.plane // self.heads
        # Where a key lies among those that any head of its layer holds, and how many they are.
        shown = torch.zeros(layers, self.num_seen, dtype=torch.int64, device=sums.device)
        shown[layer, self.positions] = 1
        place, held = (shown.cumsum(1) - 1)[layer, self.positions], shown.sum(1)[layer]
        # Windows before the suffix, and those of it; the last of each may be shorter.
        rows = held.clamp_max(suffix)
        before = held - rows
        is_before = place < before
        offset = torch.where(is_before, place, place - before)
        length = (torch.where(is_before, before, rows) - offset // window * window).clamp_max(window)
        number = torch.where(is_before, 0, (before + window - 1) // window) + offset // window
        windows = self.num_seen // window + 2
        counted = self.heads * min(suffix, self.num_seen) * self.group
        at = layer * windows + number
        totals = sums.new_zeros(layers * windows)
        if pool == "mean":
            return self._mean(totals.scatter_add_(0, at, sums)[at], length * counted)
        spread = sums.new_zeros(self.num_planes, windows, window)
        spread[self.plane, number, offset % window] = sums
        half = length.clamp_max(max(window // 2, 1))
        sizes = half.new_zeros(layers * windows)
        sizes[at] = half
        greatest = spread.sort(dim=2, descending=True).values
        taken = torch.arange(window, device=sums.device) < sizes.view(layers, 1, windows, 1)
        pooled = (greatest.view(layers, self.heads, windows, window) * taken).sum((1, 3))
        return self._mean(pooled.flatten()[at], half * counted)
