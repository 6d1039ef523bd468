"""Row writes and moves: reference, Rust and emulated CUDA give the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hornbeam import _native
from hornbeam.errors import CudaError, ShapeError
from tests.cuda.emulator import Device, Emulation, place
from tests.cuda.plans import DTYPES, forest, upload


def written_by_torch(k: torch.Tensor, v: torch.Tensor, chunks: list, slots: np.ndarray, layer: int) -> list:
    """By the definition of PageLayout: row `i` of kv head `h` to plane `layer * heads + h`."""
    chunks = [chunk.clone() for chunk in chunks]
    per_chunk, heads = chunks[0].shape[1], k.shape[1]
    for row, (slab, slot) in enumerate(slots.tolist()):
        chunk = chunks[slab // per_chunk]
        planes = slice(layer * heads, (layer + 1) * heads)
        chunk[planes, slab % per_chunk, 0, slot] = k[row].to(chunk.dtype)
        chunk[planes, slab % per_chunk, 1, slot] = v[row].to(chunk.dtype)
    return chunks


def bits(chunks: list) -> list:
    return [chunk.view(torch.uint8) for chunk in chunks]


@pytest.mark.parametrize("pages", DTYPES)
@pytest.mark.parametrize("rows", DTYPES)
def test_write_rows_gives_the_same_bytes(
    simt: Emulation | Device, rows: torch.dtype, pages: torch.dtype
) -> None:
    random = np.random.default_rng(1)
    for trial in range(4):
        case = forest(random, dtype=pages, most_rows=9, head_dim=int(random.choice([4, 5, 40, 64, 320])))
        shape = (case.plan.num_rows, 2, case.num_kv_heads, case.head_dim)
        # Strided: k and v are halves of one tensor, as a fused projection leaves them.
        both = (torch.randn(shape) * 10.0 ** torch.randint(-6, 5, shape)).to(rows)
        k, v = both[:, 0], both[:, 1]
        want = written_by_torch(k, v, case.chunks, case.plan.row_slots, trial % 2)
        rust = [chunk.clone() for chunk in case.chunks]
        _native.write_rows(k, v, rust, case.plan, trial % 2, case.num_kv_heads)
        _, words, chunks = upload(case, case.num_kv_heads)
        both = both.to(place())
        _native.cuda_write_rows(
            simt.lane, both[:, 0], both[:, 1], words, chunks[0], trial % 2, case.num_kv_heads
        )
        for got in (rust, [chunk.cpu() for chunk in chunks]):
            assert all(torch.equal(a, b) for a, b in zip(bits(got), bits(want), strict=True))


@pytest.mark.parametrize("pages", DTYPES)
@pytest.mark.parametrize("by_page", [False, True])
def test_moves_give_the_same_bytes(simt: Emulation | Device, pages: torch.dtype, by_page: bool) -> None:
    random = np.random.default_rng(2)
    for head_dim in (4, 5, 32, 320):
        case = forest(random, dtype=pages, head_dim=head_dim)
        planes, per_chunk, _, page_tokens, _ = case.chunks[0].shape
        places = len(case.chunks) * per_chunk * (planes if by_page else 1)
        # To the left along one list of slots, as a commit moves: a target may be an earlier source.
        slots = [divmod(int(i), page_tokens) for i in random.permutation(places * page_tokens)[:12]]
        taken = sorted(random.choice(12, 7, replace=False).tolist())
        moves = np.array([[*slots[a], *slots[i]] for i, a in enumerate(taken) if a != i], dtype=np.int32)
        rust = [chunk.clone() for chunk in case.chunks]
        (_native.move_page_rows if by_page else _native.move_rows)(rust, moves)
        chunks = [chunk.to(place()) for chunk in case.chunks]
        addresses = torch.tensor([chunk.data_ptr() for chunk in chunks]).to(place())
        _native.cuda_move_rows(simt.lane, addresses, torch.from_numpy(moves).to(place()), chunks[0], by_page)
        got = [chunk.cpu() for chunk in chunks]
        assert all(torch.equal(a, b) for a, b in zip(bits(got), bits(rust), strict=True))


def test_wrong_arguments_are_named(simt: Emulation | Device) -> None:
    case = forest(np.random.default_rng(3))
    _, words, chunks = upload(case, case.num_kv_heads)
    k = torch.zeros(case.plan.num_rows, case.num_kv_heads, case.head_dim, device=place())
    with pytest.raises(ShapeError, match="k is a tensor of shape"):
        _native.cuda_write_rows(simt.lane, k[:, :1], k, words, chunks[0], 0, case.num_kv_heads)
    with pytest.raises(ShapeError, match=r"layer 2 of 2 kv heads"):
        _native.cuda_write_rows(simt.lane, k, k, words, chunks[0], 2, case.num_kv_heads)
    with pytest.raises(ShapeError, match="words"):
        _native.cuda_write_rows(simt.lane, k, k, words.long(), chunks[0], 0, case.num_kv_heads)
    with pytest.raises(CudaError, match="num_heads is 3 with 2 kv heads"):
        _native.CudaPlan(case.plan, case.chunks, 3, 2, 4)
    with pytest.raises(CudaError, match="page of an entry"):
        _native.CudaPlan(case.plan, case.chunks[:1], 2, 2, 4)
