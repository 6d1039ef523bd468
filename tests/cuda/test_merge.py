"""Merges of evicted keys and values: emulated CUDA gives the bits of Rust, and the reference's weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hornbeam import keep
from hornbeam.cuda import merge
from hornbeam.errors import ArgumentError, CudaError
from tests.cuda.emulator import Device, Emulation, on_the_device, place
from tests.reference import keep as reference

pytestmark = pytest.mark.usefixtures("backend")

RULES = {
    "evict_then_merge": keep.EvictThenMerge(),
    "evict_then_merge of few": keep.EvictThenMerge(candidates=0.4, threshold=-1.0),
    "value_merge": keep.ValueMerge(),
    "value_merge above": keep.ValueMerge(threshold=0.6),
    "similarity_merge": keep.SimilarityMerge(),
}
#: Rows of each plane, and how many stay: none, all, a tile of keys and more, strips of queries and more.
PLANES = [(40, 7), (0, 0), (5, 0), (6, 6), (130, 45), (33, 32), (1, 1), (70, 1)]


def planes(
    dim: int, seed: int, kind: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    random = np.random.default_rng(seed)
    total = sum(count for count, _ in PLANES)
    # A common direction, so that cosines are high enough to merge.
    keys = torch.from_numpy(random.standard_normal((total, dim)) + 1.2).float()
    values = torch.from_numpy(random.standard_normal((total, dim))).float()
    scores = torch.from_numpy(random.random(total)).float()
    if kind == "ties":
        # Equal keys and scores, keys without a direction, values without a length, scores that are no weight.
        keys = keys[torch.from_numpy(random.integers(0, 4, total))].contiguous()
        scores = torch.from_numpy(random.choice([0.0, -0.0, 0.5, -1.0, np.nan, -np.inf], total)).float()
        keys[::7] = 0.0
        values[::5] = 0.0
    kept = [
        torch.from_numpy(np.sort(random.permutation(count)[:stay])).to(torch.int64) for count, stay in PLANES
    ]
    return keys, values, scores, kept


@pytest.mark.parametrize("kind", ["random", "ties"])
@pytest.mark.parametrize("dim", [4, 40, 64, 200, 512])
@pytest.mark.parametrize("name", RULES)
def test_the_bits_are_those_of_rust(simt: Emulation | Device, name: str, dim: int, kind: str) -> None:
    rule, counts = RULES[name], [count for count, _ in PLANES]
    keys, values, scores, kept = planes(dim, dim, kind)
    with on_the_device():
        k, v, weights = merge.merge_rows(rule, keys.to(place()), values.to(place()), scores, counts, kept)
    outs = zip(*(x.cpu().split([len(part) for part in kept]) for x in (k, v)), weights, strict=True)
    ins = zip(*(x.split(counts) for x in (keys, values, scores)), kept, strict=True)
    merged = 0
    for (plane_k, plane_v, plane_s, stay), (got_k, got_v, got) in zip(ins, outs, strict=True):
        want = rule.reduce(plane_k, plane_v, plane_s, stay)
        assert want.merge is not None
        assert torch.equal(got.targets.cpu(), want.merge.targets)
        assert torch.equal(got.weights.cpu(), want.merge.weights)
        assert torch.equal(got.own.cpu(), want.merge.own)
        assert torch.equal(got_k, want.keys)
        assert torch.equal(got_v, want.values)
        merged += int((got.weights > 0).sum())
        if kind == "random" and name in ("evict_then_merge", "value_merge", "similarity_merge"):
            a, b, c = (x.double().numpy() for x in (plane_k, plane_v, plane_s))
            matrix, keys_too = reference.merge_weights(name, a, b, c, stay.tolist())
            np.testing.assert_allclose(got_v.numpy(), matrix @ b, rtol=1e-5, atol=1e-5)
            expected = matrix @ a if keys_too else a[stay.tolist()]
            np.testing.assert_allclose(got_k.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert merged > 5


def test_batches_of_planes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, values, scores, kept = planes(16, 3, "random")
    counts = np.array([count for count, _ in PLANES], np.int32)
    # Every row on a slot of its own, in any order.
    places = np.random.default_rng(1).permutation(2 * 3 * 12 * 7)[: len(keys)]
    held = np.stack([places // 7, places % 7, np.zeros_like(places)], axis=1).astype(np.int32)
    chunks = [torch.zeros(3, 12, 2, 7, 16) for _ in range(2)]
    for (page, slot, _), key, value in zip(held, keys, values, strict=True):
        chunks[page // 36].view(36, 2, 7, 16)[page % 36, :, slot] = torch.stack([key, value])
    chunks = [chunk.to(place()) for chunk in chunks]
    with on_the_device():
        want = merge.merge_rows(
            keep.ValueMerge(), keys.to(place()), values.to(place()), scores, counts.tolist(), kept
        )
        for batch in (1, 16 * 50, 1 << 23):
            monkeypatch.setattr(merge, "_BATCH", batch)
            got = merge.merge_pages(keep.ValueMerge(), chunks, counts, held, scores, kept)
            assert torch.equal(got[0], want[0])
            assert torch.equal(got[1], want[1])


def test_what_cannot_be_merged_is_refused() -> None:
    with on_the_device():
        rows = torch.ones(3, 4, device=place())
        for bad in ([0, 3], [-1, 0], [1, 1], [2, 0]):
            with pytest.raises(ArgumentError, match="expected ascending indices below 3"):
                merge.merge_rows(keep.ValueMerge(), rows, rows, torch.ones(3), [3], [torch.tensor(bad)])
        wide = torch.ones(3, 600, device=place())
        with pytest.raises(CudaError, match="head_dim is 600, expected 1 to 512"):
            merge.merge_rows(keep.ValueMerge(), wide, wide, torch.ones(3), [3], [torch.tensor([1])])

    class Own(keep.ValueMerge):
        def reduce(self, *_: torch.Tensor) -> keep.Reduced:
            raise AssertionError

    assert merge.merges(keep.EvictThenMerge())
    assert not merge.merges(Own())
    assert not merge.merges(keep.Drop())
