"""Single rows of pages, and pages made at once: emulated CUDA gives the bytes of Rust."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hornbeam import ops
from hornbeam.errors import ArgumentError
from tests.cuda.emulator import Device, Emulation, on_the_device, place
from tests.cuda.plans import DTYPES
from tests.cuda.test_codes import pool
from tests.ops.test_quantised_pages import FORMATS

pytestmark = pytest.mark.usefixtures("backend")


def bits(chunks: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([chunk.cpu().view(torch.uint8) for chunk in chunks])


def at_once(
    random: np.random.Generator, chunk: torch.Tensor, ids: int
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Pages of two formats and plain moves, most of them to pages that others are read from."""
    known = {name: of for name, of in ops.page_formats(chunk).items() if of[1]}
    page_tokens = chunk.shape[3]
    targets = list(random.permutation(ids)[:9])
    codes = []
    for name in random.choice(sorted(known), 2, replace=False):
        number, tokens = known[name]
        moves = []
        for size in (tokens, int(random.integers(1, tokens + 1))):
            page = targets.pop()
            moves += [[random.integers(ids), random.integers(page_tokens), page, i] for i in range(size)]
        codes.append((number, np.array(moves, np.int32)))
    to = random.permutation(len(targets) * page_tokens)[: 3 * page_tokens]
    plain = [
        [random.integers(ids), random.integers(page_tokens), targets[i // page_tokens], i % page_tokens]
        for i in to
    ]
    return np.array(plain, np.int32), codes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("head_dim", "page_tokens"), [(64, 16), (80, 16), (32, 7), (12, 16), (320, 4)])
def test_pages_made_at_once_have_the_bytes_of_rust(
    simt: Emulation | Device, dtype: torch.dtype, head_dim: int, page_tokens: int
) -> None:
    random = np.random.default_rng(head_dim)
    for trial in range(3):
        chunks = pool(random, dtype, head_dim, page_tokens)
        plain, codes = at_once(random, chunks[0], 2 * 3 * 12)
        # Without codes, and without plain moves: what a step makes may lack either.
        plain, codes = (plain[:0] if trial == 1 else plain), ([] if trial == 2 else codes)
        want = [chunk.clone() for chunk in chunks]
        ops.condense_pages(want, plain, codes)
        assert not torch.equal(bits(want), bits(chunks))
        got = [chunk.clone().to(place()) for chunk in chunks]
        with on_the_device():
            ops.condense_pages(got, plain, codes)
        assert torch.equal(bits(got), bits(want))
        if len(plain):
            want, got = [chunk.clone() for chunk in chunks], [chunk.clone().to(place()) for chunk in chunks]
            ops.move_page_rows_at_once(want, plain)
            with on_the_device():
                ops.move_page_rows_at_once(got, plain)
            assert torch.equal(bits(got), bits(want))


def test_nothing_is_written_where_an_element_cannot_be_encoded() -> None:
    chunks = [torch.randn(2, 4, 2, 16, 32)]
    chunks[0][1, 3, 1, 2, 7] = torch.inf  # page 7, slot 2
    before = chunks[0].clone()
    number, _ = ops.page_formats(chunks[0])["int8"]
    plain = np.array([[0, 0, 1, 0]], np.int32)
    code = np.array([[3, 0, 2, 0], [7, 2, 4, 0]], np.int32)
    with on_the_device():
        there = [chunk.to(place()) for chunk in chunks]
        with pytest.raises(ArgumentError, match="expected at most 65504"):
            ops.condense_pages(there, plain, [(number, code)])
        assert torch.equal(bits(there), bits([before]))
        with pytest.raises(ArgumentError, match=r"moves is \[0, 0, 8, 0\], expected slots of the pool"):
            ops.condense_pages(there, np.array([[0, 0, 8, 0]], np.int32), [])
        with pytest.raises(ArgumentError, match="expected plain slots of the pool to slots 0 to"):
            ops.condense_pages(there, plain, [(number, np.array([[0, 0, 1, 1]], np.int32))])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("head_dim", "page_tokens"), [(64, 16), (80, 16), (32, 7), (12, 16), (320, 4)])
def test_rows_are_read_and_written_as_by_rust(
    simt: Emulation | Device, dtype: torch.dtype, head_dim: int, page_tokens: int
) -> None:
    random = np.random.default_rng(head_dim)
    chunks = pool(random, dtype, head_dim, page_tokens)
    entries, counts = [], []
    for page, name in enumerate([None, *FORMATS]):
        number, tokens = (0, page_tokens) if name is None else ops.page_formats(chunks[0])[name]
        if tokens == 0:
            continue
        if number:
            sources = [[20 + i // page_tokens, i % page_tokens, page, i] for i in range(tokens)]
            ops.quantise_pages(chunks, np.array(sources, np.int32), name, by_page=True)
        counts.append(tokens)
        entries += [[page, slot | number << 12, slot] for slot in random.permutation(tokens)]
    held = np.array(entries, np.int32)
    want = ops.gather_rows(chunks, np.array(counts, np.int32), held)
    there = [chunk.to(place()) for chunk in chunks]
    with on_the_device():
        got = ops.gather_rows(there, np.array(counts, np.int32), held)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))

    slots = random.permutation(72 * page_tokens)[:50]
    held = np.stack([slots // page_tokens, slots % page_tokens, slots], axis=1).astype(np.int32)
    k, v = torch.randn(2, 50, head_dim) * 10.0 ** torch.randint(-6, 4, (2, 50, 1))
    ops.put_rows(chunks, held, k, v)
    with on_the_device():
        ops.put_rows(there, held, k.to(place()), v)
    assert torch.equal(bits(there), bits(chunks))


def test_slots_outside_of_the_pool_are_refused() -> None:
    chunks = [torch.randn(2, 4, 2, 16, 32)]
    rows = torch.zeros(1, 32)
    number, tokens = ops.page_formats(chunks[0])["int8"]
    for bad in ([8, 0, 0], [-1, 0, 0], [0, 16, 0], [0, -1, 0], [0, number << 12, 0]):
        held = np.array([bad], np.int32)
        message = f"an entry is page {bad[0]}, slot {bad[1]}, expected a plain slot of the pool"
        with pytest.raises(ArgumentError, match=message):
            ops.put_rows(chunks, held, rows, rows)
        with on_the_device(), pytest.raises(ArgumentError, match=message):
            ops.put_rows([chunk.to(place()) for chunk in chunks], held, rows, rows)
    for bad in ([8, 0, 0], [0, 16, 0], [0, tokens | number << 12, 0], [0, 15 << 12, 0]):
        with on_the_device(), pytest.raises(ArgumentError, match="expected a slot of the pool"):
            ops.gather_rows([chunks[0].to(place())], np.array([1], np.int32), np.array([bad], np.int32))
