"""Scores of everything that a branch holds, on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.cuda.device import lane, upload
from hornbeam.cuda.mass_scores import MassScores
from hornbeam.cuda.rows import gather_rows, plane_batches
from hornbeam.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["score_resident"]

#: Elements of keys that are read at once, in float32 and likewise of values.
_BATCH = 1 << 23


def score_resident(
    score: tuple[str, dict[str, Any]],
    chunks: list[Tensor],
    counts: NDArray[np.int32],
    entries: NDArray[np.int32],
    masses: list[tuple[Tensor, NDArray[np.int32]]],
    *,
    num_seen: int,
    num_kv_heads: int,
    group: int,
    scale: float,
    expected: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Scores of the keys of all planes, float32 `[T]` on the device: the bits of the CPU.

    Args:
        score: the score's :meth:`~hornbeam.keep.Score.spec`; keys and values stay where they are.
        chunks: the pool.
        counts: int32 `[P]`, keys of each plane.
        entries: int32 `[T, 3]` of (page, slot, position), plane after plane.
        masses: for each of the sets of rows that the score needs, int64 `[T]` sums on the device, and int32
            `[T]`, how many of the rows saw the key, on the host.
        num_seen: tokens seen so far.
        num_kv_heads: planes of a layer.
        group: query heads of a kv head.
        scale: what attention multiplies scores by.
        expected: for expected attention, float64 means `[L, H, D]` and covariances `[L, H, D, D]` of queries
            to come, on the host.

    Raises:
        ShapeError: expected attention without ``expected``.
    """
    name, params = score
    device = chunks[0].device
    if len(entries) == 0:
        return torch.empty(0, device=device)
    held = Held(chunks, counts, entries)
    if name == "value_weighted":
        scores = score_resident(
            params["score"],
            chunks,
            counts,
            entries,
            masses,
            num_seen=num_seen,
            num_kv_heads=num_kv_heads,
            group=group,
            scale=scale,
            expected=expected,
        )
        rule = "times_length" if params.get("norm") == "l2" else "times_magnitudes"
        for _, own, (_, values) in held.batches():
            _native.cuda_score_rows(lane(), values, rule, scores[own])
        return scores
    if name == "key_norm":
        scores = torch.empty(len(entries), device=device)
        for _, own, (keys, _) in held.batches():
            _native.cuda_score_rows(lane(), keys, "key_norm", scores[own])
        return scores
    if name == "key_difference":
        return held.key_differences()
    if name == "expected_attention":
        if expected is None:
            raise ShapeError("expected attention knows of no queries, expected moments of at least one row")
        return held.expected_attention(params, expected, group, scale)
    known = MassScores(
        counts,
        entries[:, 2],
        masses,
        num_seen=num_seen,
        num_kv_heads=num_kv_heads,
        group=group,
        device=device,
    )
    return known.scores(name, params)


class Held:
    """Keys and values of a branch."""

    def __init__(self, chunks: list[Tensor], counts: NDArray[np.int32], entries: NDArray[np.int32]) -> None:
        self.chunks, self.counts, self.entries = chunks, counts, entries
        self.device, self.dim = chunks[0].device, chunks[0].shape[-1]

    def batches(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Some planes at a time: planes, their rows, and keys and values float32 `[2, N, D]`."""
        for planes, own in plane_batches(self.counts, max(_BATCH // self.dim, 1)):
            if own.stop > own.start:
                yield planes, own, gather_rows(self.chunks, self.entries[own])

    def begin(self, planes: slice) -> Tensor:
        return torch.from_numpy(np.cumsum([0, *self.counts[planes]]).astype(np.int32))

    def key_differences(self) -> Tensor:
        scores = torch.empty(len(self.entries), device=self.device)
        for planes, own, (keys, _) in self.batches():
            (begin,) = upload([self.begin(planes)], self.device)
            # Any numbers of 64 bits.
            lengths = torch.empty(len(keys), dtype=torch.int64, device=self.device)
            shape = planes.stop - planes.start, self.dim + 1
            anchors = torch.empty(shape, dtype=torch.int64, device=self.device)
            most = int(self.counts[planes].max())
            _native.cuda_key_differences(lane(), keys, begin, most, lengths, anchors, scores[own])
        return scores

    def expected_attention(
        self,
        params: dict[str, Any],
        expected: tuple[Tensor, Tensor],
        group: int,
        scale: float,
    ) -> Tensor:
        # Bits of doubles; covariances column after column.
        means, covariances = (
            x.reshape(-1, group, *x.shape[2:]).contiguous().view(torch.int64)
            for x in (expected[0], expected[1].mT)
        )
        first = np.array(
            [
                np.searchsorted(part, params["sinks"])
                for part in np.split(self.entries[:, 2], np.cumsum(self.counts)[:-1])
            ],
            np.int32,
        )
        scores = torch.empty(len(self.entries), device=self.device)
        for planes, own, (keys, values) in self.batches():
            tables = [
                self.begin(planes),
                torch.from_numpy(first[planes]),
                means[planes],
                covariances[planes],
            ]
            begin, sinks, means_there, covariances_there = upload(tables, self.device)
            weights = torch.empty(group, len(keys), dtype=torch.int64, device=self.device)
            totals = torch.empty(planes.stop - planes.start, group, dtype=torch.int64, device=self.device)
            _native.cuda_expected_scores(
                lane(),
                (keys, values),
                (begin, sinks),
                (means_there, covariances_there),
                (weights, totals),
                (float(np.float32(scale)), params["epsilon"]),
                int(self.counts[planes].max()),
                scores[own],
            )
        return scores
