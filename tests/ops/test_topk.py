"""``topk``, ``topp``, ``product_key_topk`` and ``block_topk`` against a full stable sort."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hornbeam import ops
from hornbeam.errors import ArgumentError, HornbeamError, ShapeError
from tests.reference import topk as reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SPECIAL = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0, 0.0, 1e-40, -1e-45, 3.4e38])
#: What rows are made of.
KINDS = ["normal", "ties", "special", "ascending", "outliers", "masked", "denormal", "bits"]


def rows_of(kind: str, rows: int, n: int, seed: int) -> Tensor:
    """Rows of one kind, float32."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, n, generator=generator)
    chance = torch.rand(rows, n, generator=generator)
    match kind:
        case "ties":
            return x.round()
        case "special":
            return torch.where(chance < 0.3, SPECIAL[(chance * 1e6).long() % len(SPECIAL)], x.round())
        case "ascending":
            return x.sort(dim=-1).values
        case "outliers":
            return x**9 * 1e20
        case "masked":
            return torch.where(chance < 0.7, -torch.inf, x)
        case "denormal":
            return x * 1e-42
        case "bits":
            return torch.randint(-(2**31), 2**31, (rows, n), generator=generator).int().view(torch.float32)
    return x


def same(got: Tensor, want: Tensor) -> bool:
    """Bit for bit, but for NaN, of which one is like another."""
    kind = torch.int32 if got.dtype == torch.float32 else torch.int16
    alike = (got.view(kind) == want.view(kind)) | (got.isnan() & want.isnan())
    return got.shape == want.shape and bool(alike.all())


def check(x: Tensor, k: int, hint: Tensor | None = None) -> None:
    order = reference.order(x)[..., :k]
    for is_sorted in (False, True):
        values, indices = ops.topk(x, k, sorted=is_sorted, hint=hint)
        want = order if is_sorted else order.sort(dim=-1).values
        assert torch.equal(indices, want)
        assert same(values, x.gather(-1, want))


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_are_those_of_a_stable_sort(kind: str) -> None:
    """Two million rows in all, short ones, and some that are long enough for every way to guess."""
    for seed, (rows, n, k) in enumerate(
        [
            (150_000, 12, 5),
            (75_000, 17, 16),
            (30_000, 40, 1),
            (60, 4096, 64),
            (20, 4100, 2000),
            (6, 33_000, 300),
            (4, 9001, 900),
        ]
    ):
        check(rows_of(kind, rows, n, seed), k)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_shape_dtype_hint_and_stride(dtype: torch.dtype, data: st.DataObject) -> None:
    n = data.draw(st.one_of(st.integers(1, 40), st.integers(1000, 5000)))
    kind = data.draw(st.sampled_from(KINDS))
    k = data.draw(st.one_of(st.sampled_from([0, 1, n]), st.integers(0, n)))
    leading = data.draw(st.sampled_from([(), (1,), (3,), (2, 0), (2, 3)]))
    count = torch.Size(leading).numel()
    x = rows_of(kind, count, n, data.draw(st.integers(0, 99))).to(dtype).view(*leading, n)
    if data.draw(st.booleans()):
        x = x.repeat_interleave(2, -1)[..., ::2]
    hint = None
    if data.draw(st.booleans()):
        hint = torch.tensor(data.draw(st.lists(st.floats(width=32), min_size=count, max_size=count)))
        hint = hint.float().view(leading)
    elif n > 1000 and k > 0 and data.draw(st.booleans()):
        hint = reference.topk(x, k, sorted=True)[0][..., -1].float()
    check(x, k, hint)


def test_the_finite_order_is_that_of_torch() -> None:
    x = torch.randn(40, 5000)
    values, indices = ops.topk(x, 70, sorted=True)
    want = torch.topk(x, 70)
    assert torch.equal(values, want.values)
    assert torch.equal(indices, want.indices)


def test_nan_is_greatest_and_zeros_are_equal() -> None:
    x = torch.tensor([1.0, torch.nan, -0.0, torch.inf, 0.0, -torch.nan])
    assert ops.topk(x, 2)[1].tolist() == [1, 5]
    assert ops.topk(x, 5, sorted=True)[1].tolist() == [1, 5, 3, 0, 2]


def test_flushed_denormals_are_zeros() -> None:
    """With denormals read as zeros, as ``torch.set_flush_denormal`` has it, they tie with zero."""
    x = rows_of("denormal", 4, 3000, 0)
    x[:, 1000] = 1.0
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot read denormals as zeros")
    try:
        for k in (1, 100, 2000):
            indices = ops.topk(x, k)[1]
            assert indices.shape == (4, k)
            assert bool((indices.diff(dim=-1) > 0).all())
            assert bool((indices == 1000).any(-1).all())
    finally:
        torch.set_flush_denormal(False)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.integers(0, 9), st.integers(1000, 3000)), max_size=6),
    kind=st.sampled_from(KINDS),
    data=st.data(),
)
def test_ragged_rows_and_counts(lengths: list[int], kind: str, data: st.DataObject) -> None:
    counts = [data.draw(st.integers(0, 12)) for _ in lengths]
    x = rows_of(kind, 1, sum(lengths), 3)[0]
    offsets = torch.tensor([0, *itertools.accumulate(lengths)])
    width = max(counts, default=0)
    for k in (torch.tensor(counts, dtype=torch.int64), width):
        values, indices = ops.topk(x, k, offsets=offsets)
        assert values.shape == indices.shape == (len(lengths), width)
        for i, row in enumerate(x.split(lengths) if lengths else []):
            count = min(counts[i] if isinstance(k, Tensor) else k, len(row))
            want_values, want = reference.topk(row, count, sorted=False)
            assert torch.equal(indices[i, :count], want)
            assert same(values[i, :count], want_values)
            assert bool((indices[i, count:] == -1).all())
            assert bool((values[i, count:] == -torch.inf).all())


def test_out_is_written_and_the_number_of_threads_changes_nothing() -> None:
    x = torch.randn(64, 20_000)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        out = (torch.empty(64, 50), torch.empty(64, 50, dtype=torch.int64))
        torch.set_num_threads(threads)
        try:
            values, indices = ops.topk(x, 50, out=out)
        finally:
            torch.set_num_threads(before)
        assert values is out[0]
        assert indices is out[1]
        results.append(indices.clone())
    assert torch.equal(*results)
    assert torch.equal(results[0], reference.topk(x, 50, sorted=False)[1])


def test_wrong_arguments_are_named() -> None:
    x = torch.randn(2, 5)
    cases: list[tuple[type[HornbeamError], str, dict]] = [
        (ArgumentError, "k is 6, expected 0 to 5", {"k": 6}),
        (ArgumentError, "k is -1", {"k": -1}),
        (ArgumentError, "k is 2.0", {"k": 2.0}),
        (ArgumentError, "k is 6, expected 0 to 5", {"k": torch.tensor([1, 6])}),
        (ArgumentError, "k is -1", {"k": torch.tensor([1, -1])}),
        (ShapeError, r"k is a tensor of shape \(3,\)", {"k": torch.tensor([1, 1, 1])}),
        (ArgumentError, "k is torch.float32", {"k": torch.tensor([1.0, 1.0])}),
        (ShapeError, "scores is a tensor without dimensions", {"scores": torch.tensor(1.0)}),
        (ShapeError, "scores is .*int64", {"scores": torch.arange(5)}),
        (ArgumentError, "scores is a list", {"scores": [1.0, 2.0]}),
        (ShapeError, "scores is a tensor of shape", {"offsets": torch.tensor([0, 5])}),
        (ArgumentError, "offsets is 0 to 4", {"scores": x[0], "offsets": torch.tensor([0, 4])}),
        (ShapeError, "hint is", {"hint": torch.zeros(3)}),
        (ShapeError, "hint is", {"hint": torch.zeros(2, dtype=torch.bfloat16)}),
        (ShapeError, "out has values", {"out": (torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.int64))}),
        (ShapeError, "indices is", {"out": (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int32))}),
        (ShapeError, "values is", {"out": (torch.zeros(2, 3).half(), torch.zeros(2, 3, dtype=torch.int64))}),
    ]
    for error, text, arguments in cases:
        with pytest.raises(error, match=text):
            ops.topk(**({"scores": x, "k": 3} | arguments))
    shared = torch.zeros(2, 5)
    with pytest.raises(ArgumentError, match="memory that scores shares"):
        ops.topk(shared, 5, out=(shared, torch.zeros(2, 5, dtype=torch.int64)))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_topp_is_the_smallest_set(dtype: torch.dtype, data: st.DataObject) -> None:
    """Weights of few bits, whose sums are exact in every way to sum."""
    n = data.draw(st.one_of(st.integers(1, 30), st.integers(200, 3000)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randint(0, data.draw(st.sampled_from([2, 9, 256])), (3, n), generator=generator).to(dtype)
    p = data.draw(st.integers(0, 64)) / 64
    floor = data.draw(st.integers(0, 20))
    cap = data.draw(st.one_of(st.none(), st.integers(floor, 40)))
    values, indices = ops.topp(x, p, floor=floor, cap=cap)
    for row, found, own in zip(x, indices, values, strict=True):
        want = reference.topp(row, p, floor, n if cap is None else cap)
        assert found[: len(want)].tolist() == want.tolist()
        assert bool((found[len(want) :] == -1).all())
        assert torch.equal(own[: len(want)], row[want])
        assert bool((own[len(want) :] == 0).all())


def test_topp_of_ragged_rows_and_what_it_refuses() -> None:
    x = torch.tensor([0.5, 0.25, 0.25, 3.0, 0.0, 1.0])
    indices = ops.topp(x, 0.75, offsets=torch.tensor([0, 3, 3, 6]), sorted=True)[1]
    assert indices.tolist() == [[0, 1], [-1, -1], [0, -1]]
    cases: list[dict[str, Any]] = [
        {"p": 1.5},
        {"p": torch.nan},
        {"p": 0.5, "floor": 3, "cap": 2},
        {"p": 0.5, "floor": -1},
    ]
    for arguments in cases:
        with pytest.raises(ArgumentError):
            ops.topp(x, **arguments)
    for bad in (-1.0, torch.nan, torch.inf):
        with pytest.raises(ArgumentError, match="weights is"):
            ops.topp(torch.tensor([1.0, bad]), 0.5)


@settings(max_examples=80, deadline=None)
@given(
    a=st.integers(1, 40),
    b=st.integers(1, 40),
    kind=st.sampled_from(["normal", "ties", "steps", "masked"]),
    data=st.data(),
)
def test_pairs_are_those_of_all_sums(a: int, b: int, kind: str, data: st.DataObject) -> None:
    """Steps of half a rounding: sums that are equal only when rounded."""
    seed = data.draw(st.integers(0, 99))
    left, right = (rows_of("normal" if kind == "steps" else kind, 3, n, seed + n) for n in (a, b))
    if kind == "steps":
        left, right = 1 + (left * 2).round() * 2**-23, (right * 4).round() * 2**-25
    k = data.draw(st.integers(0, a * b))
    values, pairs = ops.product_key_topk(left, right, k)
    want_values, want = reference.product(left, right, k)
    assert torch.equal(pairs, want)
    assert torch.equal(values, want_values)


def test_a_tie_that_rounding_makes_goes_to_the_lowest_pair() -> None:
    """Both sums with 2^24 are 2^24: the pair with the lower index wins, though its key is the lesser one."""
    a, b = torch.tensor([0.0, 1.0]), torch.tensor([2.0**24])
    assert ops.product_key_topk(a, b, 1)[1].tolist() == [0]


@settings(max_examples=40, deadline=None)
@given(a=st.integers(1, 30), b=st.integers(1, 30), rank=st.integers(1, 3), data=st.data())
def test_tucker_scores_are_those_of_all_pairs(a: int, b: int, rank: int, data: st.DataObject) -> None:
    """Whole numbers, whose products are exact."""
    seed = data.draw(st.integers(0, 99))
    left, right = (rows_of("ties", 2 * rank, n, seed + n).view(2, rank, n) for n in (a, b))
    core = rows_of("ties", 2 * rank, rank, seed).view(2, rank, rank)
    core = core[0] if data.draw(st.booleans()) else core
    k = data.draw(st.integers(0, a * b))
    values, pairs = ops.product_key_topk(left, right, k, core=core)
    want_values, want = reference.tucker(left, right, core.expand(2, rank, rank), k)
    assert torch.equal(pairs, want)
    assert torch.equal(values, want_values)


def test_products_refuse_what_has_no_answer() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(2, 4)
    with pytest.raises(ArgumentError, match="k is 13, expected 0 to 12"):
        ops.product_key_topk(a, b, 13)
    with pytest.raises(ShapeError, match="scores_b has shape"):
        ops.product_key_topk(a, b[:1], 1)
    with pytest.raises(ShapeError, match="core is a tensor of shape"):
        ops.product_key_topk(a[None], b[None], 1, core=torch.zeros(3, 3))
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ArgumentError, match="scores_b is"):
            ops.product_key_topk(a, torch.full((2, 4), bad), 1)
    with pytest.raises(ArgumentError, match="scores_a is"):
        ops.product_key_topk(torch.full((1, 2, 3), -torch.inf), b[None], 1, core=torch.zeros(2, 2))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 900), block=st.integers(1, 70), kind=st.sampled_from(KINDS), data=st.data())
def test_blocks_are_chosen_by_their_maximum(
    dtype: torch.dtype, n: int, block: int, kind: str, data: st.DataObject
) -> None:
    x = rows_of(kind, 2, n, 5).to(dtype)
    k = data.draw(st.integers(0, -(-n // block)))
    values, indices = ops.block_topk(x, block, k)
    for row, found, maxima in zip(x, indices, values, strict=True):
        want_values, want = reference.blocks(row, block, k)
        assert torch.equal(found, want)
        assert torch.allclose(maxima.float(), want_values.float(), rtol=0, atol=0, equal_nan=True)


def test_blocks_refuse_and_ragged_rows_have_as_many_as_they_have() -> None:
    x = torch.arange(10.0)
    assert ops.block_topk(x, 4, 3, offsets=torch.tensor([0, 3, 10]))[1].tolist() == [[0, -1, -1], [0, 1, -1]]
    with pytest.raises(ArgumentError, match="k is 4, expected 0 to 3"):
        ops.block_topk(x, 4, 4)
    with pytest.raises(ArgumentError, match="block is 0"):
        ops.block_topk(x, 0, 1)
