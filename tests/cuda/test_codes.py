"""Pages in codes: emulated CUDA writes the bytes of Rust, and attention reads them as the reference does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hornbeam import ops
from hornbeam.errors import ArgumentError
from tests.cuda import test_attention, test_mass
from tests.cuda.emulator import Device, Emulation, on_the_device, place
from tests.cuda.plans import DTYPES, Case
from tests.ops.test_quantised_pages import FORMATS, grown

pytestmark = pytest.mark.usefixtures("backend")

#: Tensor cores take decoded keys in the pages' type: a channel of 100 is off by a quarter in bf16, by a
#: thirty-second in f16, one of 60 by as much at most, and a score by 0.05 of that times a query's elements.
LSE_BOUNDS = {torch.float32: 2e-4, torch.bfloat16: 1e-1, torch.float16: 1.2e-2}


def pool(
    random: np.random.Generator, dtype: torch.dtype, head_dim: int, page_tokens: int
) -> list[torch.Tensor]:
    """Two chunks of all sizes of numbers: constant channels and tokens, zeros of both signs, outliers."""
    generator = torch.Generator().manual_seed(int(random.integers(1 << 30)))
    shape = (3, 12, 2, page_tokens, head_dim)
    chunks = []
    for _ in range(2):
        x = (
            torch.randn(shape, generator=generator)
            * 10.0 ** torch.randint(-6, 4, shape[:2], generator=generator)[:, :, None, None, None]
        )
        x[:, 1] = -0.0
        x[:, 2, :, ::2] = 0.0
        x[:, 3, 0] = 2.5
        x[:, 4, ..., 3] *= 30.0
        x[:, 5, :, 1] = x[:, 5, :, 1].abs()
        chunks.append(x.clamp(-6e4, 6e4).to(dtype))
    return chunks


def moves_to(random: np.random.Generator, tokens: int, page_tokens: int, ids: int) -> np.ndarray:
    """Two pages, one full and one not, from slots anywhere on other pages."""
    moves = []
    for page, count in ((6, tokens), (ids - 1, int(random.integers(1, tokens + 1)))):
        sources = [i for i in range(ids) if i not in (6, ids - 1)]
        for slot in range(count):
            moves.append([random.choice(sources), random.integers(page_tokens), page, slot])
    return np.array(moves, dtype=np.int32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMATS)
def test_the_bytes_are_those_of_rust(simt: Emulation | Device, name: str, dtype: torch.dtype) -> None:
    random = np.random.default_rng(FORMATS.index(name))
    for head_dim, page_tokens, by_page in (
        (64, 16, False),
        (80, 16, True),
        (32, 7, True),
        (12, 16, True),
        (320, 4, False),
    ):
        chunks = pool(random, dtype, head_dim, page_tokens)
        _, tokens = ops.page_formats(chunks[0])[name]
        if tokens == 0:
            continue
        # Pages of one plane in turn, or all planes of a slab.
        moves = moves_to(random, tokens, page_tokens, 2 * 12 * (3 if by_page else 1))
        want = [chunk.clone() for chunk in chunks]
        ops.quantise_pages(want, moves, name, by_page=by_page)
        got = [chunk.clone().to(place()) for chunk in chunks]
        with on_the_device():
            ops.quantise_pages(got, moves, name, by_page=by_page)
        for mine, theirs in zip(got, want, strict=True):
            assert torch.equal(mine.cpu().view(torch.uint8), theirs.view(torch.uint8))
        assert any(
            not torch.equal(a.view(torch.uint8), b.view(torch.uint8))
            for a, b in zip(want, chunks, strict=True)
        )


def test_what_cannot_be_encoded_is_refused() -> None:
    chunks = [torch.randn(2, 4, 2, 16, 32)]
    move = np.array([[0, 0, 2, 0]], np.int32)
    with on_the_device():
        for bad in (torch.nan, torch.inf, 7e4):
            broken = [chunk.clone().to(place()) for chunk in chunks]
            broken[0][1, 0, 1, 0, 5] = bad
            before = broken[0].clone()
            with pytest.raises(ArgumentError, match="expected at most 65504"):
                ops.quantise_pages(broken, move, "int4", by_page=False)
            assert torch.equal(broken[0][1, 2], before[1, 2])  # the page that it is on
        for wrong in ([[0, 16, 2, 0]], [[0, 0, 4, 0]], [[0, 0, 2, 1]], [[0, 0, 2, 0], [0, 1, 2, 2]]):
            with pytest.raises(ArgumentError, match="expected plain slots of the pool to slots 0 to"):
                ops.quantise_pages(
                    [chunk.to(place()) for chunk in chunks], np.array(wrong, np.int32), "int4", by_page=False
                )


@pytest.mark.parametrize("head_dim", [12, 32, 64, 80, 128, 320])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_and_mass_read_mixed_pages(
    simt: Emulation | Device, dtype: torch.dtype, head_dim: int
) -> None:
    """All formats and plain pages in one branch, uniform and by head, few and many queries, cut finely."""
    random = np.random.default_rng(head_dim)
    for trial, (group, by_head) in enumerate([(1, True), (3, False), (8, True)]):
        tokens, rows = 260, (1, 9, 4)[trial]
        with on_the_device():
            tree, branch, _, _ = grown(tokens, head_dim=head_dim, dtype=dtype, seed=trial, layers=2)
            names = [None, *random.choice(FORMATS, 3, replace=False)]

            drawn = random.integers(0, len(names), (tree.num_planes, tokens))
            formats = [[names[i] for i in plane] for plane in drawn]
            asked = formats if by_head else formats[0]
            node = tree.nodes(branch)[0][0]
            tree.quantise(branch, node, asked, digest=5, by_head=by_head, partial=True)
            tree.debug_check()
            k, v = torch.randn(2, rows, 2, head_dim).to(dtype)
            with tree.step([(branch, [0] * rows, None)]) as step:
                ops.write_rows(k, v, tree.chunks, step.plan, layer=1, num_kv_heads=2)
                case = Case(tree.chunks, step.plan, 2, 2, head_dim)
        assert {entry >> 12 for entry in (case.plan.entries[:, 1] & 0xFFFF).tolist()} > {0}
        cut = {"blocks": 1000, "least_tiles": 1} if trial == 1 else None
        torch.manual_seed(trial)
        q = test_attention.queries(case, group, dtype)
        window = 100 if trial == 2 else None
        # One channel of the values is eight times the others.
        test_attention.check(simt, case, q, cut, 8.0, LSE_BOUNDS[dtype], window=window, scale=0.05)
        test_mass.check(case, list(range(0, rows, 2)), group, dtype, window=window, scale=0.05)
