"""Evicted keys and values merged into kept ones, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.cuda.device import lane, upload
from hornbeam.cuda.rows import gather_rows, plane_batches
from hornbeam.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Merge", "MergeRule", "merge_pages", "merge_rows", "merges"]

#: Elements of keys that are merged at once, in float32 and three times over.
_BATCH = 1 << 23


class MergeRule(NamedTuple):
    """What the kernels need to know of a reduction."""

    #: The name of the reduction in Rust.
    name: str
    #: The cosine below which nothing is merged, for the kernels that have one.
    threshold: float = 0.0
    #: How many of the rest may be merged, as a multiple of the number kept: the best. None for all.
    candidates: float | None = None


class Merging(Protocol):
    """A reduction that says how it merges on a device: of :mod:`hornbeam.keep`, which builds on this."""

    @property
    def merge_rule(self) -> MergeRule | None:
        """None where kernels cannot do it."""


@dataclass(frozen=True)
class Merge:
    """Weights of a merge: for each of the evicted, ascending, int32 ``targets [N - K]`` (slot among the kept,
    or -1 for none) and float32 ``weights [N - K]``; float32 ``own [K]`` of the kept. Those of a slot sum to
    1.

    Args:
        targets: int32 `[N - K]`: of each of the evicted the slot among the kept, or -1.
        weights: float32 `[N - K]`: of each of the evicted.
        own: float32 `[K]`: of each of the kept.
    """

    targets: Tensor
    weights: Tensor
    own: Tensor


def merges(reduce: Merging) -> bool:
    """Whether there are kernels for a reduction."""
    return reduce.merge_rule is not None


def merge_rows(
    reduce: Merging,
    keys: Tensor,
    values: Tensor,
    scores: Tensor,
    counts: Sequence[int],
    kept: Sequence[Tensor],
) -> tuple[Tensor, Tensor, list[Merge]]:
    """What :meth:`hornbeam.keep.Reduce.reduce` gives of every plane, bit by bit. Nothing is waited for.

    Args:
        reduce: one that :func:`merges`.
        keys: float32 `[T, D]` on the device, plane after plane.
        values: as `keys`.
        scores: float32 `[T]` on the host.
        counts: rows of each plane.
        kept: ascending indices that stay of each plane, on the host.

    Returns:
        Keys and values `[K, D]` on the device, plane after plane, and the weights of each plane, there too.

    Raises:
        ArgumentError: no kernel does this reduction, or indices are not ascending ones of their plane.
    """
    rule = reduce.merge_rule
    if rule is None:
        raise ArgumentError(f"{type(reduce).__name__} has no kernel, expected a reduction that merges")
    driver = lane()
    worth, begin = scores.float().numpy(), 0
    stay: list[NDArray[np.int32]] = []
    ask: list[NDArray[np.int32]] = []
    places = []  # of those that ask, among all that go
    for count, indices in zip(counts, kept, strict=True):
        own = indices.numpy().astype(np.int64)
        if len(own) and (own[0] < 0 or own[-1] >= count or (np.diff(own) <= 0).any()):
            raise ArgumentError(f"kept is {own.tolist()}, expected ascending indices below {count}")
        gone = np.ones(count, bool)
        gone[own] = False
        evicted = np.flatnonzero(gone) + begin
        place = np.arange(len(evicted)) if len(own) else np.arange(0)
        if rule.candidates is not None:
            place = _best(worth[evicted], int(len(own) * rule.candidates))
        stay.append((own + begin).astype(np.int32))
        ask.append(evicted[place].astype(np.int32))
        places.append((place, len(evicted)))
        begin += count
    rows, asked = np.concatenate(stay), np.concatenate(ask)
    device, planes, dim = keys.device, len(stay), keys.shape[1]
    tables = [
        torch.from_numpy(table)
        for table in (rows, worth[rows], _begins(stay), asked, worth[asked], _begins(ask))
    ]
    kept_there, kept_scores, kept_begin, asked_there, asked_scores, asked_begin = upload(tables, device)
    total = len(rows) + len(asked)
    floats = torch.empty(total * dim + len(asked), device=device)
    doubles = torch.empty(total + len(asked), dtype=torch.int64, device=device)
    merged = torch.empty(planes, dtype=torch.int32, device=device)
    out = torch.empty((2, len(rows), dim), device=device)
    targets = torch.full((len(asked),), -1, dtype=torch.int32, device=device)
    weights, own_weights = torch.zeros(len(asked), device=device), torch.empty(len(rows), device=device)
    _native.cuda_merge_rows(
        driver,
        (keys, values),
        (kept_there, kept_scores, kept_begin),
        (asked_there, asked_scores, asked_begin),
        (rule.name, rule.threshold),
        (max(map(len, stay), default=0), max(map(len, ask), default=0)),
        (floats, doubles, merged),
        (out[0], out[1]),
        (targets, weights, own_weights),
    )
    parts = zip(
        places,
        targets.split([len(part) for part in ask]),
        weights.split([len(part) for part in ask]),
        own_weights.split([len(part) for part in stay]),
        strict=True,
    )
    return out[0], out[1], [_spread(*part) for part in parts]


def merge_pages(
    reduce: Merging,
    chunks: list[Tensor],
    counts: NDArray[np.int32],
    held: NDArray[np.int32],
    scores: Tensor,
    kept: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """As :func:`merge_rows`, of rows on pages: ``held`` is int32 `[T, 3]` of (page, slot, position), plane
    after plane, so many as ``counts`` says. Some planes at a time, so that copies take little memory."""
    parts = []
    for planes, own in plane_batches(counts, max(_BATCH // chunks[0].shape[-1], 1)):
        keys, values = gather_rows(chunks, held[own])
        keys, values, _ = merge_rows(reduce, keys, values, scores[own], counts[planes].tolist(), kept[planes])
        parts.append((keys, values))
    return torch.cat([keys for keys, _ in parts]), torch.cat([values for _, values in parts])


def _best(scores: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """The places of the best scores, ascending; of equal ones the first, and NaN below all."""
    nan = np.isnan(scores)
    order = np.lexsort((np.arange(len(scores)), -np.where(nan, 0, scores), nan))
    return np.sort(order[:most])


def _begins(parts: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.cumsum([0, *map(len, parts)]).astype(np.int32)


def _spread(place: tuple[NDArray[np.int64], int], targets: Tensor, weights: Tensor, own: Tensor) -> Merge:
    """The weights of all that go, also of those that were not asked."""
    at, count = place
    if len(at) == count:
        return Merge(targets, weights, own)
    index = torch.from_numpy(at).to(targets.device)
    every = targets.new_full((count,), -1), weights.new_zeros(count)
    return Merge(every[0].index_copy(0, index, targets), every[1].index_copy(0, index, weights), own)
