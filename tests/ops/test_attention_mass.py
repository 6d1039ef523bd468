"""The mass of attention against dense softmax in float64 (tests/reference/attention.py)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hornbeam as hb
import hornbeam.ops as ops
from hornbeam import _native
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.ops import MASS_ONE
from tests.ops import test_attention
from tests.ops.test_attention import DTYPES, INSTRUCTION_SETS, Case, random_case
from tests.reference import attention as reference


def run(case: Case, rows: list[int], isa: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Mass, how many rows see each key, and log-sum-exp."""
    width = sum(count for _, _, count in ops.mass_columns(case.plan, rows))
    mass = torch.zeros(case.num_kv_heads, width, dtype=torch.int64)
    seen = torch.zeros(case.num_kv_heads, width, dtype=torch.int32)
    lse = torch.full((len(rows), case.q.shape[1]), torch.nan)
    named = {"scale": None, "window": None, "soft_cap": None, "sinks": None, **case.options}
    _native.attention_mass(
        case.q[rows],
        case.chunks,
        case.plan,
        rows,
        mass,
        seen,
        lse,
        case.layer,
        case.num_kv_heads,
        **named,
        isa=isa,
    )
    return mass, seen, lse


def check(case: Case, rows: list[int]) -> None:
    """Every key's mass up to the roundings of float32, counts exactly; one result on all threads and
    instruction sets."""
    mass, seen, lse = run(case, rows)
    keywords = {"layer": case.layer, "num_kv_heads": case.num_kv_heads, **case.options}
    want, want_seen, want_lse, lse_error = reference.bounded_attention_mass(
        case.q[rows], case.chunks, case.plan, rows, **keywords
    )
    expected = torch.zeros(mass.shape, dtype=torch.float64)
    # Each row and head rounds to a whole number of units.
    error = torch.full_like(expected, len(rows) * case.q.shape[1] / MASS_ONE)
    expected_seen = torch.zeros_like(seen)
    for read, begin, _ in ops.mass_columns(case.plan, rows):
        for head in range(case.num_kv_heads):
            for (of, i), (value, off) in want[head].items():
                if of == read:
                    expected[head, begin + i] = value
                    error[head, begin + i] += off
                    expected_seen[head, begin + i] = want_seen[head][of, i]
    # No mass lies outside of the columns.
    total = sum(value for head in want for value, _ in head.values())
    assert expected.sum().item() == pytest.approx(total, abs=1e-9)
    test_attention.assert_within(mass.double() / MASS_ONE, expected, error)
    test_attention.assert_within(lse, want_lse, lse_error)
    assert torch.equal(seen, expected_seen)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for isa in INSTRUCTION_SETS:
                again = run(case, rows, isa)
                assert all(torch.equal(a, b) for a, b in zip(again, (mass, seen, lse), strict=True)), (
                    isa,
                    count,
                )
    finally:
        torch.set_num_threads(threads)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    head_dim=st.sampled_from([4, 12, 32, 40, 64, 128, 320, 512]),
    group=st.integers(1, 7),
    dtype=st.sampled_from(DTYPES),
    max_rows=st.sampled_from([1, 4, 70]),
    window=st.none() | st.integers(1, 320),
    soft_cap=st.sampled_from([None, 5.0]),
    sinks=st.booleans(),
    data=st.data(),
)
def test_random_plans_and_rows(
    seed: int,
    head_dim: int,
    group: int,
    dtype: torch.dtype,
    max_rows: int,
    window: int | None,
    soft_cap: float | None,
    sinks: bool,
    data: st.DataObject,
) -> None:
    case = random_case(
        seed,
        head_dim=head_dim,
        group=group,
        dtype=dtype,
        q_dtype=dtype,
        max_rows=max_rows,
        window=window,
        soft_cap=soft_cap,
        with_sinks=sinks,
    )
    rows = data.draw(st.sets(st.integers(0, case.q.shape[0] - 1), max_size=40))
    check(case, sorted(rows))


def test_parts_add_up_to_the_whole() -> None:
    """Rows one by one, and together: the same integers, which is what batching must not change."""
    case = random_case(21, max_rows=40, group=3)
    rows = list(range(case.q.shape[0]))
    total, _, _ = run(case, rows)
    sums = torch.zeros_like(total)
    begins = {read: begin for read, begin, _ in ops.mass_columns(case.plan, rows)}
    for row in rows:
        part, _, _ = run(case, [row])
        for read, begin, count in ops.mass_columns(case.plan, [row]):
            sums[:, begins[read] : begins[read] + count] += part[:, begin : begin + count]
    assert torch.equal(sums, total)


def test_it_adds_to_out_and_agrees_with_attention() -> None:
    case = random_case(22, group=2, max_rows=5)
    rows = list(range(case.q.shape[0]))
    keywords = {"layer": case.layer, "num_kv_heads": case.num_kv_heads}
    mass = ops.attention_mass(case.q, case.chunks, case.plan, rows, **keywords)
    # Every row and head spends one.
    total = mass.sum().item() / MASS_ONE
    assert total == pytest.approx(case.q.shape[0] * case.q.shape[1], abs=1e-6)
    again = ops.attention_mass(
        case.q, case.chunks, case.plan, torch.tensor(rows), **keywords, out=mass.clone()
    )
    assert torch.equal(again, 2 * mass)
    _, lse = case.run()
    torch.testing.assert_close(run(case, rows)[2], lse, rtol=1e-6, atol=1e-5)


def test_scores_from_arrays_are_the_same_bits() -> None:
    """A prompt of one chain: what `hb.keep` finds from gathered keys and queries."""
    tokens, heads, group, dim = 70, 2, 3, 40
    tree = hb.PrefixTree(num_layers=1, num_kv_heads=heads, head_dim=dim)
    k, v = torch.randn(2, tokens, heads, dim)
    q = torch.randn(tokens, heads * group, dim)
    with tree.step([(tree.branch(), [0] * tokens, None)]) as step:
        ops.write_rows(k, v, tree.chunks, step.plan, layer=0, num_kv_heads=heads)
        mass = ops.attention_mass(
            q, tree.chunks, step.plan, range(tokens), layer=0, num_kv_heads=heads, scale=0.2
        )
    keys, values, queries = (x.transpose(0, 1)[None, None].contiguous() for x in (k, v, q))
    scores = hb.keep.AccumulatedMass().scores(keys, values, queries, 0.2)
    assert torch.equal(scores[0, 0], (mass.double() / (MASS_ONE * group)).float())


def test_rows_that_are_no_distribution_add_nothing() -> None:
    case = random_case(23, reads=0, max_rows=3)
    clean, _, _ = run(case, [0])
    case.q[0, 1, 3] = torch.nan
    mass, _, lse = run(case, [0])
    assert lse[0, 1].isnan()
    assert mass.sum() == clean.sum() - MASS_ONE
    nothing, _, _ = run(case, [])
    assert nothing.shape == (case.num_kv_heads, 0)


def test_errors_name_the_argument() -> None:
    case = random_case(2, max_rows=6)
    count = case.q.shape[0]
    good = {"q": case.q, "chunks": case.chunks, "plan": case.plan, "rows": list(range(count))}
    good |= {"layer": case.layer, "num_kv_heads": case.num_kv_heads}

    def refused(kind: type[Exception], match: str, **change: object) -> None:
        with pytest.raises(kind, match=match):
            ops.attention_mass(**{**good, **change})  # type: ignore[arg-type]

    refused(ArgumentError, "rows is .*, expected ascending rows below", rows=[1, 0])
    refused(ArgumentError, "rows is .*, expected ascending rows below", rows=[count], q=case.q[:1])
    refused(ArgumentError, "rows is -1", rows=[-1])
    refused(ShapeError, "q is a tensor of shape", rows=[0])
    refused(ShapeError, "out is a tensor of shape", out=torch.zeros(case.num_kv_heads, 1, dtype=torch.int64))
    refused(ShapeError, "seen is a tensor of shape", seen=torch.zeros(1, dtype=torch.int32))
    refused(ShapeError, "lse is a tensor of shape", lse=torch.zeros(1))
    refused(ArgumentError, "layer is 7", layer=7)
