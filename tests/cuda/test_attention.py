"""Tree attention: the float64 reference, Rust and emulated CUDA agree to a stated bound."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from hornbeam import _native, ops
from hornbeam.errors import CudaError
from tests.cuda.emulator import Device, Emulation, current, place
from tests.cuda.plans import DTYPES, Case, forest, upload
from tests.reference import attention as reference

pytestmark = pytest.mark.usefixtures("backend")

#: Largest difference from float64, for values of about 1: f32 sums; weights and output rounded to
#: the 16-bit type (8 and 11 bits), three roundings at most.
BOUNDS = {torch.float32: 2e-5, torch.bfloat16: 2.5e-2, torch.float16: 3e-3}


def on_device(
    simt: Emulation | Device,
    q: torch.Tensor,
    case: Case,
    *,
    layer: int,
    cut: dict | None = None,
    **options: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The emulated operation; what it does not write stays NaN."""
    num_heads = q.shape[1]
    packed, words, chunks = upload(case, num_heads, **(cut or {}))
    q = q.to(place())
    out = torch.full_like(q, torch.nan, memory_format=torch.contiguous_format)
    lse = torch.full(q.shape[:2], torch.nan, device=place())
    size = packed.num_partial_rows * num_heads * (case.head_dim + 2)
    workspace = torch.full((size,), torch.nan, device=place())
    if isinstance(sinks := options.get("sinks"), torch.Tensor):
        options = {**options, "sinks": sinks.to(place())}
    arguments = {"scale": None, "window": None, "soft_cap": None, "sinks": None, **options}
    _native.cuda_tree_attention(
        simt.lane,
        q,
        words,
        chunks[0],
        out,
        lse,
        workspace,
        (packed.num_items, packed.num_merged_rows),
        packed.num_partial_rows,
        layer,
        case.num_kv_heads,
        *arguments.values(),
    )
    return out.cpu(), lse.cpu()


def queries(case: Case, group: int, dtype: torch.dtype) -> torch.Tensor:
    """Seen through a transpose, as a model leaves them."""
    heads = case.num_kv_heads * group
    return torch.randn(heads, case.plan.num_rows, case.head_dim).to(dtype).transpose(0, 1)


def check(
    simt: Emulation | Device,
    case: Case,
    q: torch.Tensor,
    cut: dict | None = None,
    largest: float = 1.0,
    lse_bound: float = 2e-4,
    **options: object,
) -> None:
    """Bounds are for values of about ``largest``."""
    layer = case.num_layers - 1
    got, got_lse = on_device(simt, q, case, layer=layer, cut=cut, **options)
    want, want_lse = reference.tree_attention(
        q, case.chunks, case.plan, layer=layer, num_kv_heads=case.num_kv_heads, **options
    )
    bound = max(BOUNDS[q.dtype], BOUNDS[case.chunks[0].dtype] if q.dtype == case.chunks[0].dtype else 0)
    torch.testing.assert_close(got.double(), want, atol=bound * largest, rtol=bound)
    torch.testing.assert_close(got_lse.double(), want_lse, atol=lse_bound, rtol=1e-5)
    lse = torch.empty(q.shape[:2])
    rust = ops.tree_attention(
        q, case.chunks, case.plan, layer=layer, num_kv_heads=case.num_kv_heads, lse=lse, **options
    )
    torch.testing.assert_close(got.double(), rust.double(), atol=2 * bound * largest, rtol=2 * bound)
    torch.testing.assert_close(got_lse, lse, atol=lse_bound, rtol=1e-5)


@pytest.mark.parametrize("head_dim", [4, 7, 8, 20, 24, 32, 64, 80, 112, 128, 192, 256, 320, 512])
@pytest.mark.parametrize("dtype", DTYPES)
def test_forests(simt: Emulation | Device, dtype: torch.dtype, head_dim: int) -> None:
    """Random forests over ragged pages, few and many queries a kv head, cut finely and not at all."""
    random = np.random.default_rng(head_dim)
    for group, by_head in [(1, True), (3, False), (8, True)]:
        case = forest(random, dtype=dtype, head_dim=head_dim, by_head=by_head, prefix_keys=100)
        cut = {"blocks": 1000, "least_tiles": 1} if group == 3 else None
        check(simt, case, queries(case, group, dtype), cut)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("feature", ["window", "soft_cap", "sinks", "scale"])
def test_features(dtype: torch.dtype, feature: str) -> None:
    simt = current()
    simt.seed(7)
    random = np.random.default_rng(8)
    for trial in range(3):
        case = forest(random, dtype=dtype, head_dim=64, prefix_keys=150, by_head=trial == 1)
        q = queries(case, 2, dtype)
        value = {
            "window": int(random.integers(1, 120)),
            "soft_cap": 3.0,
            "sinks": torch.randn(q.shape[1]) * 3,
            "scale": 0.3,
        }[feature]
        check(simt, case, q, {"least_tiles": 1, "blocks": 1000} if trial else None, **{feature: value})


@pytest.mark.parametrize(("queries_of", "pages"), list(itertools.product(DTYPES, DTYPES)))
def test_mixed_types_and_odd_strides_go_the_plain_way(queries_of: torch.dtype, pages: torch.dtype) -> None:
    simt = current()
    case = forest(np.random.default_rng(3), dtype=pages, head_dim=40)
    q = queries(case, 2, queries_of)
    wide = torch.zeros(q.shape[0], q.shape[1], 41, dtype=q.dtype)  # rows on odd addresses
    wide[..., :40] = q
    check(simt, case, wide[..., :40])


def test_a_row_that_sees_nothing_gives_zeros() -> None:
    simt = current()
    case = forest(np.random.default_rng(5), prefix_keys=0)
    rows = case.plan.num_rows
    empty = np.zeros((0, 4), dtype=np.int32)
    none = np.zeros(0, dtype=np.int32)
    case.plan = _native.Plan(
        empty,
        none,
        empty[:, :2],
        np.zeros((0, 8), np.int32),
        *(getattr(case.plan, name) for name in ("row_positions", "row_end", "row_slots")),
    )
    out, lse = on_device(simt, torch.randn(rows, 4, case.head_dim), case, layer=0)
    assert torch.equal(out, torch.zeros_like(out))
    assert torch.equal(lse, torch.full_like(lse, -torch.inf))


def test_shared_and_repeated_prefixes_agree() -> None:
    """The cost model changes the work list, never the answer."""
    simt = current()
    case = forest(np.random.default_rng(11), num_requests=12, most_rows=2, prefix_keys=700, head_dim=32)
    q = queries(case, 2, torch.float32)
    shared = upload(case, 4)[0]
    repeated = upload(case, 4, share=False)[0]
    assert shared.num_partial_rows > 0
    assert shared.num_items != repeated.num_items
    once, once_lse = on_device(simt, q, case, layer=0)
    again, again_lse = on_device(simt, q, case, layer=0, cut={"share": False})
    torch.testing.assert_close(once, again, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(once_lse, again_lse, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_of_threads_changes_no_bit(dtype: torch.dtype) -> None:
    simt = current()
    case = forest(np.random.default_rng(13), dtype=dtype, head_dim=64, prefix_keys=300)
    q = queries(case, 4, dtype)
    results = []
    for seed in (0, 1, 5, 6):
        simt.seed(seed)
        results.append(on_device(simt, q, case, layer=1, cut={"least_tiles": 1, "blocks": 100}))
    for out, lse in results[1:]:
        assert torch.equal(out, results[0][0])
        assert torch.equal(lse, results[0][1])


def test_a_buffer_with_room_serves_a_larger_plan() -> None:
    """What a captured graph does: fixed launch sizes, the plan updated in place, padded rows."""
    simt = current()
    random = np.random.default_rng(17)
    buffer = torch.zeros(4096, dtype=torch.int32, device=place())
    for _ in range(3):
        case = forest(random, head_dim=32)
        packed, words, chunks = upload(case, 4, least_tiles=1, blocks=1000)
        buffer[: len(words)] = words
        rows = packed.num_rows
        q = torch.randn(16, 4, case.head_dim, device=place())
        out = torch.full_like(q, torch.nan)
        workspace = torch.empty(64 * 4 * (case.head_dim + 2), device=place())
        _native.cuda_tree_attention(
            simt.lane, q, buffer, chunks[0], out, None, workspace, (64, 16), 64, 0, 2, None, None, None, None
        )
        want, _ = reference.tree_attention(q[:rows].cpu(), case.chunks, case.plan, layer=0, num_kv_heads=2)
        torch.testing.assert_close(out[:rows].cpu().double(), want, atol=2e-5, rtol=2e-5)
        assert out[rows:].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_padded_rows_give_zeros_and_are_written_nowhere(simt: Emulation | Device, dtype: torch.dtype) -> None:
    """As a captured step has them: more rows than the plan, which nothing refers to."""
    random = np.random.default_rng(8)
    for group, padding in [(1, 1), (4, 5), (8, 40)]:
        case = forest(random, dtype=dtype, prefix_keys=70)
        rows = case.plan.num_rows
        packed, words, chunks = upload(case, case.num_kv_heads * group, num_rows=rows + padding)
        assert packed.num_rows == rows + padding
        q = torch.full((rows + padding, case.num_kv_heads * group, case.head_dim), torch.nan).to(dtype)
        q[:rows] = queries(case, group, dtype)
        k = torch.full((2, rows + padding, case.num_kv_heads, case.head_dim), torch.nan).to(dtype)
        k[:, :rows] = torch.randn(k[:, :rows].shape)
        plain = [chunk.clone() for chunk in case.chunks]
        ops.write_rows(*k[:, :rows], plain, case.plan, layer=0, num_kv_heads=case.num_kv_heads)
        _native.cuda_write_rows(simt.lane, *k.to(place()), words, chunks[0], 0, case.num_kv_heads)
        for one, other in zip(chunks, plain, strict=True):
            assert torch.equal(one.cpu(), other)
        out = torch.full_like(q, torch.nan)
        lse = torch.full(q.shape[:2], torch.nan, device=place())
        size = packed.num_partial_rows * q.shape[1] * (case.head_dim + 2)
        _native.cuda_tree_attention(
            simt.lane,
            q.to(place()),
            words,
            chunks[0],
            out,
            lse,
            torch.empty(size, device=place()),
            # What a graph was captured for: fewer blocks than items, more than merged rows.
            (1, 100),
            packed.num_partial_rows,
            0,
            case.num_kv_heads,
            None,
            None,
            None,
            None,
        )
        want = ops.tree_attention(q[:rows], plain, case.plan, layer=0, num_kv_heads=case.num_kv_heads)
        torch.testing.assert_close(out[:rows].cpu().double(), want.double(), atol=5e-2, rtol=5e-2)
        assert not out[rows:].any()
        assert bool((lse[rows:] == -torch.inf).all())


def test_entries_outside_of_their_page_are_refused() -> None:
    case = forest(np.random.default_rng(19))
    names = ("entries", "positions", "head_ranges", "reads", "row_positions", "row_end", "row_slots")
    count = int(case.plan.entries[0, 1]) >> 16
    for first, message in (
        (17, rf"slots 17\.\.{17 + count}, expected a page and slots of the pool"),
        (1 << 12 | 2000, rf"slots 2000\.\.{2000 + count}, expected a page and slots of the pool"),
    ):
        arrays = {name: getattr(case.plan, name).copy() for name in names}
        arrays["entries"][0, 1] = first | count << 16
        plan = _native.Plan(*arrays.values())
        with pytest.raises(CudaError, match=message):
            upload(Case(case.chunks, plan, case.num_layers, case.num_kv_heads, case.head_dim), 4)
