"""Tree attention against dense attention in float64 (tests/reference/attention.py)."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

import hornbeam.ops as ops
from hornbeam import _native
from hornbeam._native import Plan
from hornbeam.errors import ArgumentError, ShapeError
from tests.reference import attention as reference

OWN, BY_HEAD = 1, 2
INSTRUCTION_SETS = _native.instruction_sets()[0]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HEAD_DIMS = [4, 7, 8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 160, 192, 256, 320, 512]


@dataclass
class Case:
    q: Tensor
    chunks: list[Tensor]
    plan: Plan
    layer: int
    num_kv_heads: int
    options: dict

    def run(self, isa: str | None = None, *, batch_invariant: bool = False) -> tuple[Tensor, Tensor]:
        out = torch.full(self.q.shape, torch.nan)
        lse = torch.full(self.q.shape[:2], torch.nan)
        named = {"scale": None, "window": None, "soft_cap": None, "sinks": None, **self.options}
        named |= {"isa": isa, "batch_invariant": batch_invariant}
        _native.tree_attention(
            self.q, self.chunks, self.plan, out, lse, self.layer, self.num_kv_heads, **named
        )
        return out, lse

    def expected(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Output, log-sum-exp, and how far each may be off."""
        q, keywords = self.q, {"layer": self.layer, "num_kv_heads": self.num_kv_heads}
        return reference.bounded_tree_attention(q, self.chunks, self.plan, **keywords, **self.options)


def assert_within(got: Tensor, want: Tensor, error: Tensor) -> None:
    """Each element is as near to what it shall be as its own error allows; infinities are equal."""
    off = (got.double() - want).abs()
    wrong = ~((off <= error) | (got.double() == want))
    worst = (off / error)[wrong]
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} are off by up to {worst.max():.3g} times"


def depth_first_ends(random: np.random.Generator, rows: int) -> tuple[list[int], list[int]]:
    """Subtree ends and depths of a random forest whose rows are in depth-first order."""
    path: list[int] = []
    depths, ends = [], [0] * rows
    for row in range(rows):
        if path and random.random() < 0.4:
            del path[random.integers(0, len(path)) :]
        depths.append(len(path))
        path.append(row)
        for ancestor in path:
            ends[ancestor] = row + 1
    return ends, depths


def random_case(
    seed: int,
    *,
    head_dim: int = 64,
    group: int = 2,
    num_kv_heads: int = 2,
    dtype: torch.dtype = torch.float32,
    q_dtype: torch.dtype = torch.float32,
    max_rows: int = 12,
    reads: int = 4,
    **options: object,
) -> Case:
    """Requests with shared, ragged and by-head prefixes, and trees of rows."""
    random = np.random.default_rng(seed)
    page_tokens, slabs_per_chunk, num_chunks, num_layers = 8, 24, 2, 2
    num_planes = num_layers * num_kv_heads
    row_end: list[int] = []
    row_positions: list[int] = []
    own: list[list[int]] = []
    for _ in range(random.integers(1, 4)):
        begin, rows = len(row_end), int(random.integers(1, max_rows + 1))
        ends, depths = depth_first_ends(random, rows)
        row_end += [begin + end for end in ends]
        row_positions += [300 + depth for depth in depths]
        own.append([0, 0, begin, begin + rows, rows, OWN, -1, 0])
    n = len(row_end)
    order = random.permutation(slabs_per_chunk * num_chunks)
    slots = [[int(order[i // page_tokens]), i % page_tokens] for i in range(n)]
    entries: list[list[int]] = []
    positions: list[int] = []
    ranges: list[list[int]] = []
    table: list[list[int]] = []

    def add_entries(count: int, pages: int) -> None:
        for _ in range(count):
            first = int(random.integers(0, page_tokens))
            shown = int(random.integers(1, page_tokens - first + 1))
            at = -1
            if random.random() < 0.5:
                at = len(positions)
                positions.extend(np.sort(random.choice(290, shown, replace=False)).tolist())
            entries.append(
                [int(random.integers(pages)), first | shown << 16, int(random.integers(0, 280)), at]
            )

    for _ in range(random.integers(0, reads + 1)):
        begin = int(random.integers(0, n))
        end = int(random.integers(begin + 1, n + 1))
        pages = slabs_per_chunk * num_chunks
        if random.random() < 0.3:
            first = len(ranges)
            for _ in range(num_planes):
                start = len(entries)
                add_entries(int(random.integers(0, 10)), pages * num_planes)
                ranges.append([start, len(entries)])
            most = max(sum(e[1] >> 16 for e in entries[a:b]) for a, b in ranges[first:])
            table.append([first, len(ranges), begin, end, most, BY_HEAD, -1, 0])
        else:
            start = len(entries)
            add_entries(int(random.integers(1, 30)), pages)
            keys = sum(e[1] >> 16 for e in entries[start:])
            table.append([start, len(entries), begin, end, keys, 0, -1, 0])

    def array(values: list, *shape: int) -> NDArray:
        return np.array(values, np.int32).reshape(*shape)

    plan = Plan(
        array(entries, -1, 4),
        array(positions, -1),
        array(ranges, -1, 2),
        array(table + own, -1, 8),
        array(row_positions, -1),
        array(row_end, -1),
        array(slots, -1, 2),
    )
    generator = torch.Generator().manual_seed(seed)
    shape = (num_planes, slabs_per_chunk, 2, page_tokens, head_dim)
    chunks = [torch.randn(shape, generator=generator).to(dtype) for _ in range(num_chunks)]
    q = torch.randn(n, group * num_kv_heads, head_dim, generator=generator).to(q_dtype)
    if options.pop("with_sinks", False):
        options["sinks"] = torch.randn(group * num_kv_heads, generator=generator)
    return Case(q, chunks, plan, int(random.integers(num_layers)), num_kv_heads, dict(options))


def check(case: Case, *, batch_invariant: bool = False) -> tuple[Tensor, Tensor]:
    """The result, which every instruction set and thread count gives, and which is the reference's up to the
    roundings of float32."""
    out, lse = case.run(batch_invariant=batch_invariant)
    want, want_lse, error, lse_error = case.expected()
    assert_within(out, want, error)
    assert_within(lse, want_lse, lse_error)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for isa in INSTRUCTION_SETS:
                again, lse_again = case.run(isa, batch_invariant=batch_invariant)
                assert torch.equal(again, out), (isa, count)
                assert torch.equal(lse_again, lse), (isa, count)
    finally:
        torch.set_num_threads(threads)
    return out, lse


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_head_dims_and_dtypes(head_dim: int, dtype: torch.dtype) -> None:
    check(random_case(head_dim, head_dim=head_dim, dtype=dtype, q_dtype=dtype, group=3, max_rows=20))


@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 8, 12, 16, 71])
def test_groups(group: int) -> None:
    check(random_case(group, group=group, num_kv_heads=1 if group > 16 else 2, head_dim=32))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0.7},
        {"window": 1},
        {"window": 60},
        {"soft_cap": 3.0},
        {"with_sinks": True},
        {"window": 100, "soft_cap": 20.0, "with_sinks": True, "scale": 0.2},
    ],
    ids=lambda options: "-".join(options),
)
def test_features(options: dict, seed: int) -> None:
    check(random_case(seed, max_rows=40, **options))


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    head_dim=st.sampled_from([4, 12, 32, 64, 72, 128]),
    group=st.integers(1, 7),
    dtype=st.sampled_from(DTYPES),
    max_rows=st.sampled_from([1, 4, 70]),
    window=st.none() | st.integers(1, 320),
    sinks=st.booleans(),
)
def test_random_plans(
    seed: int,
    head_dim: int,
    group: int,
    dtype: torch.dtype,
    max_rows: int,
    window: int | None,
    sinks: bool,
) -> None:
    check(
        random_case(
            seed,
            head_dim=head_dim,
            group=group,
            dtype=dtype,
            max_rows=max_rows,
            window=window,
            with_sinks=sinks,
        )
    )


def test_rows_that_see_only_themselves_give_their_value() -> None:
    case = random_case(5, reads=0, max_rows=1)
    keys, values, _, visible, *_ = reference.gather(case.chunks, case.plan, case.layer, case.num_kv_heads, 0)
    assert visible.equal(torch.eye(len(keys), dtype=torch.bool))
    out, _ = case.run()
    torch.testing.assert_close(out[:, 0].double(), values, rtol=1e-6, atol=1e-6)


def test_long_context_is_cut_into_pieces_on_both_threads() -> None:
    """20,000 keys: many pieces, some of them shared by few rows."""
    slabs, page_tokens = 1300, 16
    chunk = torch.randn(2, slabs, 2, page_tokens, 64, generator=torch.Generator().manual_seed(0))
    table = np.array([[i, page_tokens << 16, i * page_tokens, -1] for i in range(1250)], np.int32)
    reads = np.array(
        [[0, 1000, 0, 9, 16000, 0, -1, 0], [1000, 1250, 2, 5, 4000, 0, -1, 0], [0, 0, 0, 9, 9, 1, -1, 0]],
        np.int32,
    )
    slots = np.array([[1290, i] for i in range(9)], np.int32)
    ends = np.array([9, 9, 5, 5, 5, 9, 9, 9, 9], np.int32)
    plan = Plan(
        table,
        np.zeros(0, np.int32),
        np.zeros((0, 2), np.int32),
        reads,
        np.full(9, 20000, np.int32),
        ends,
        slots,
    )
    q = torch.randn(9, 6, 64, generator=torch.Generator().manual_seed(1))
    check(Case(q, [chunk], plan, 0, 2, {}))
    check(Case(q, [chunk], plan, 0, 2, {"window": 5000}))


def test_strided_arguments() -> None:
    """Queries seen through a transpose, results into a part of a wider tensor."""
    case = random_case(3)
    rows, heads, dim = case.q.shape
    out, _ = case.run()
    turned = case.q.transpose(0, 1).contiguous().transpose(0, 1)
    wide = torch.full((rows, heads, 2 * dim), 7.0)
    keywords = {"layer": case.layer, "num_kv_heads": case.num_kv_heads}
    assert torch.equal(ops.tree_attention(turned, case.chunks, case.plan, **keywords), out)
    result = ops.tree_attention(turned, case.chunks, case.plan, **keywords, out=wide[..., :dim])
    assert torch.equal(result, out)
    assert (wide[..., dim:] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_narrow_results_are_rounded_to_nearest(dtype: torch.dtype) -> None:
    case = random_case(8, dtype=dtype, q_dtype=dtype)
    wide, _ = case.run()
    narrow = ops.tree_attention(
        case.q, case.chunks, case.plan, layer=case.layer, num_kv_heads=case.num_kv_heads
    )
    assert narrow.dtype == dtype
    assert torch.equal(narrow, wide.to(dtype))


def test_nan_stays_with_the_rows_that_see_it() -> None:
    """A NaN in a query poisons its row and head, and nothing else."""
    case = random_case(11)
    clean, _ = case.run()
    case.q[0, 1, 3] = torch.nan
    out, lse = case.run()
    assert out[0, 1].isnan().all()
    assert lse[0, 1].isnan()
    out[0, 1] = clean[0, 1]
    assert torch.equal(out, clean)


def test_only_chunks_that_the_plan_reads_are_touched() -> None:
    """A pool of many chunks; the last one is not even of the pool's shape, and nothing reads it."""
    case = random_case(17)
    out, _ = case.run()
    spare = [torch.zeros_like(case.chunks[0]) for _ in range(8)]
    case.chunks += [*spare, torch.zeros(3)]
    assert torch.equal(case.run()[0], out)


def test_written_rows_are_seen() -> None:
    """`write_rows` and then attention: what a layer does."""
    case = random_case(13, reads=0, max_rows=6)
    rows, _, dim = case.q.shape
    k, v = torch.randn(2, rows, case.num_kv_heads, dim, generator=torch.Generator().manual_seed(2))
    keywords = {"layer": case.layer, "num_kv_heads": case.num_kv_heads}
    ops.write_rows(k, v, case.chunks, case.plan, **keywords)
    keys, *_ = reference.gather(case.chunks, case.plan, case.layer, case.num_kv_heads, 1)
    assert torch.equal(keys.float(), k[:, 1])
    check(case)


def test_errors_name_the_argument() -> None:
    case = random_case(2)
    rows, heads, dim = case.q.shape
    good = {
        "q": case.q,
        "chunks": case.chunks,
        "plan": case.plan,
        "layer": case.layer,
        "num_kv_heads": case.num_kv_heads,
    }

    def refused(kind: type[Exception], match: str, **change: object) -> None:
        with pytest.raises(kind, match=match):
            ops.tree_attention(**{**good, **change})  # type: ignore[arg-type]

    refused(ShapeError, r"q is a tensor of shape \[1", q=case.q[:1] if rows > 1 else case.q.repeat(2, 1, 1))
    refused(ShapeError, "q is strided", q=case.q.transpose(1, 2).contiguous().transpose(1, 2))
    refused(ShapeError, "q is int64", q=case.q.long())
    refused(ShapeError, "out is a tensor of shape", out=torch.empty(rows, heads, dim + 1))
    refused(ShapeError, "out strides", out=torch.empty(heads, rows, dim).transpose(0, 1))
    refused(ShapeError, "lse is a tensor of shape", lse=torch.empty(rows))
    refused(ShapeError, "lse is float16, expected float32", lse=torch.empty(rows, heads, dtype=torch.float16))
    refused(ShapeError, "sinks is a tensor of shape", sinks=torch.zeros(heads + 1))
    refused(ShapeError, "chunk is shape", chunks=[case.chunks[0], case.chunks[1][:, :-1].contiguous()])
    refused(ShapeError, "strided", chunks=[case.chunks[0].transpose(0, 1).contiguous().transpose(0, 1)])
    refused(ShapeError, 'chunks is "an empty list"', chunks=[])
    refused(ArgumentError, "entry|row_slots", chunks=case.chunks[:1])
    refused(ArgumentError, "layer is 7, expected less than 2", layer=7)
    refused(ArgumentError, "num_heads is 4", num_kv_heads=3)
    refused(ArgumentError, "window is 0", window=0)
    wide = random_case(2, head_dim=513)
    refused(ArgumentError, "head_dim is 513, expected 1 to 512", q=wide.q, chunks=wide.chunks)
    refused(ArgumentError, "soft_cap", soft_cap=-1.0)
    with pytest.raises(ArgumentError, match="instruction set is mmx"):
        case.run("mmx")
