"""Which keys stay, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.cuda.device import lane, upload
from hornbeam.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["select_keys"]


def select_keys(
    split: tuple[str, dict[str, Any]],
    scores: Tensor,
    counts: NDArray[np.int32],
    positions: NDArray[np.int32],
    total: int,
    protected: tuple[int, int, int],
    unit: int,
) -> tuple[Tensor, Tensor]:
    """What a split and a selection make of scores: the budgets and the kept sets of the CPU.

    Budgets of a split that looks at no score come from the counts. Of the others a few numbers a layer come
    back from the device, the one time that the host waits.

    Args:
        split: the split's :meth:`~hornbeam.keep.Split.spec`.
        scores: float32 `[T]` on the device, plane after plane.
        counts: int32 `[L, Hk]`, keys of each plane, on the host.
        positions: int32 `[T]`, ascending in each plane, on the host.
        total: tokens over all planes.
        protected: (sinks, recent, recent_percent) that are kept whatever their score.
        unit: tokens that are kept or dropped together.

    Returns:
        Budgets int32 `[L, Hk]` on the host, and which keys stay, bool `[T]` on the device.

    Raises:
        ShapeError: counts do not make up the scores and positions, or the split is for other planes.
    """
    driver, device = lane(), scores.device
    counts = np.ascontiguousarray(counts, dtype=np.int32)
    scores = scores.to(torch.float32).contiguous()
    if counts.ndim != 2 or counts.sum() != len(scores) or len(positions) != len(scores):
        raise ShapeError(
            f"counts are of {counts.sum()} keys, positions of {len(positions)}, expected {len(scores)} scores"
        )
    question, reserved, rooms, leaders = _native.keep_question(split, counts, total, protected)
    begin = torch.from_numpy(np.cumsum([0, *counts.flat]).astype(np.int32))
    asked = [begin]
    answer = torch.empty(0, dtype=torch.int32)
    if question == "heads":
        asked += [torch.from_numpy(reserved), torch.from_numpy(rooms)]
    begin, *numbers = upload(asked, device)
    if question == "heads":
        held = torch.empty(counts.size, dtype=torch.int32, device=device)
        _native.cuda_compete_heads(driver, scores, begin, numbers[0], numbers[1], protected, held)
        answer = held.cpu()
    elif question == "columns":
        width = int(counts.max())
        sums = torch.empty((len(counts), width), dtype=torch.int64, device=device)
        _native.cuda_column_sums(driver, scores, begin, sums)
        answer = _bought(sums, counts, protected, int(rooms[0])).cpu()
    budgets = torch.empty(counts.shape, dtype=torch.int32)
    _native.keep_answered(split, counts, total, protected, question, answer, budgets)

    followed = [budgets.flatten()]
    if (leaders != np.arange(len(leaders))).any():
        heads = counts.shape[1]
        planes = (leaders[:, None] * heads + np.arange(heads, dtype=np.int32)).flatten()
        followed += [torch.from_numpy(planes), torch.from_numpy(np.ascontiguousarray(positions, np.int32))]
    shares, *leading = upload(followed, device)
    kept = torch.empty(len(scores), dtype=torch.bool, device=device)
    unit = min(unit, int(counts.max(initial=1)))
    _native.cuda_select_keys(
        driver, scores, begin, shares, (leading[0], leading[1]) if leading else None, protected, unit, kept
    )
    return budgets, kept


def _bought(sums: Tensor, counts: NDArray[np.int32], protected: tuple[int, int, int], keys: int) -> Tensor:
    """The columns that ``keys`` buy, from their sums int64 `[L, width]`, -1 where there is none: how many
    each layer has whole, the layer of the next one, and what is left for that. They are bought by the share
    of the layer's sum that lies before them, then by layer and rank: integers, in the order of the CPU."""
    layers, width = sums.shape
    sums = sums.sort(dim=1, descending=True).values
    is_there, sums = sums >= 0, sums.clamp_min(0)
    totals = sums.sum(1, keepdim=True).clamp_min(1)
    rest = sums.cumsum(1) - sums
    shares = torch.zeros_like(rest)
    for _ in range(10):  # rest * 2^40 // totals, four bits at a time: totals are below 2^59
        rest = rest << 4
        digit = rest // totals
        shares, rest = (shares << 4) | digit, rest - digit * totals
    shares[~is_there] = torch.iinfo(torch.int64).max
    order = shares.flatten().sort(stable=True).indices

    caps = torch.from_numpy(counts)
    floors = caps.clamp_max(min(protected[0] + protected[1], width))
    floors, caps = upload([floors, caps], sums.device)
    rank = torch.arange(width, device=sums.device)[None, None]
    sizes = ((rank >= floors[:, :, None]) & (rank < caps[:, :, None])).sum(1).flatten()
    spent = sizes[order].cumsum(0)
    layer_of, is_whole = order // width, spent <= keys
    whole = torch.zeros(layers, dtype=torch.int64, device=sums.device)
    whole.scatter_add_(0, layer_of, is_whole.long())
    number = is_whole.sum().clamp_max(len(order) - 1)
    left = keys - torch.where(is_whole, spent, 0).amax()
    return torch.cat([whole, layer_of[number[None]], left[None]]).to(torch.int32)
