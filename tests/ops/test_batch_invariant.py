"""``tree_attention(batch_invariant=True)``: the bits of a row depend on what it sees, and on no other row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hornbeam.ops as ops
from hornbeam import _native, cuda
from hornbeam._native import Plan
from hornbeam.errors import ArgumentError
from tests.ops.test_attention import DTYPES, INSTRUCTION_SETS, OWN, Case, check, random_case


def run(case: Case) -> tuple[Tensor, Tensor]:
    """Output and lse of a case."""
    return case.run(batch_invariant=True)


def alone(case: Case, row: int, random: np.random.Generator) -> Case:
    """A row of a case by itself, in a step of its own: what other rows of its tree wrote before has become a
    prefix, and entries are cut in two at random."""
    plan = case.plan
    entries, ranges, table = [], [], []

    def add(entry: list[int]) -> None:
        page, packed, position, at = entry
        first, count = packed & 0xFFFF, packed >> 16
        cut = int(random.integers(1, count)) if count > 1 and random.random() < 0.3 else count
        entries.append([page, first | cut << 16, position, at])
        if cut < count:
            rest = -1 if at < 0 else at + cut
            entries.append([page, first + cut | (count - cut) << 16, position + cut, rest])

    for begin, end, row_begin, row_end, keys, kind, mask, offset in plan.reads.tolist():
        if not row_begin <= row < row_end:
            continue
        if kind == OWN:
            start = len(entries)
            for other in range(row_begin, row):
                if plan.row_end[other] > row:
                    slab, slot = plan.row_slots[other].tolist()
                    add([slab, slot | 1 << 16, int(plan.row_positions[other]), -1])
            if len(entries) > start:
                table.append([start, len(entries), 0, 1, len(entries) - start, 0, mask, offset])
            table.append([0, 0, 0, 1, 1, OWN, -1, 0])
        elif kind == 0:
            start = len(entries)
            for entry in plan.entries[begin:end].tolist():
                add(entry)
            table.append([start, len(entries), 0, 1, keys, 0, mask, offset])
        else:
            first = len(ranges)
            for least, most in plan.head_ranges[begin:end].tolist():
                start = len(entries)
                for entry in plan.entries[least:most].tolist():
                    add(entry)
                ranges.append([start, len(entries)])
            table.append([first, len(ranges), 0, 1, keys, kind, mask, offset])

    def array(values: list[Any], *shape: int) -> Any:
        return np.array(values, np.int32).reshape(*shape)

    single = Plan(
        array(entries, -1, 4),
        plan.positions,
        array(ranges, -1, 2),
        array(table, -1, 8),
        plan.row_positions[row : row + 1],
        array([1], -1),
        plan.row_slots[row : row + 1],
    )
    return Case(case.q[row : row + 1], case.chunks, single, case.layer, case.num_kv_heads, case.options)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    head_dim=st.sampled_from([4, 12, 32, 64, 72, 128]),
    group=st.integers(1, 7),
    dtype=st.sampled_from(DTYPES),
    max_rows=st.sampled_from([1, 4, 70]),
    window=st.none() | st.integers(1, 320),
    sinks=st.booleans(),
    scale=st.sampled_from([None, 0.01, 2.0]),
)
def test_a_row_alone_has_the_same_bits(
    seed: int,
    head_dim: int,
    group: int,
    dtype: torch.dtype,
    max_rows: int,
    window: int | None,
    sinks: bool,
    scale: float | None,
) -> None:
    case = random_case(
        seed,
        head_dim=head_dim,
        group=group,
        dtype=dtype,
        max_rows=max_rows,
        reads=8,
        window=window,
        with_sinks=sinks,
        scale=scale,
    )
    out, lse = check(case, batch_invariant=True)
    random = np.random.default_rng(seed)
    for row in random.permutation(len(out))[:5].tolist():
        one, one_lse = run(alone(case, row, random))
        assert torch.equal(one[0], out[row]), row
        assert torch.equal(one_lse[0], lse[row]), row


def test_the_usual_kernels_differ() -> None:
    """Else the test above would show nothing."""
    cases = [random_case(seed, max_rows=70, reads=8) for seed in range(4)]
    random = np.random.default_rng(0)
    assert any(
        not torch.equal(alone(case, len(case.q) - 1, random).run()[0][0], case.run()[0][-1]) for case in cases
    )


def test_an_output_that_is_given_has_these_bits() -> None:
    case = random_case(9, max_rows=70, reads=8, head_dim=72, group=3)
    expected, _ = check(case, batch_invariant=True)
    where: dict[str, Any] = {"layer": case.layer, "num_kv_heads": case.num_kv_heads}
    out = torch.empty(case.q.shape)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        ops.tree_attention(case.q, case.chunks, case.plan, **where, out=out, batch_invariant=True)
        assert torch.equal(out, expected)
        for isa in INSTRUCTION_SETS:
            assert torch.equal(case.run(isa, batch_invariant=True)[0], expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("factor", [1e-3, 30.0, 1e4])
def test_scores_that_differ_widely(factor: float) -> None:
    """Maxima that rise by many powers of two from key to key."""
    case = random_case(21, max_rows=70, reads=8)
    case.q *= factor
    out, _ = check(case, batch_invariant=True)
    random = np.random.default_rng(1)
    for row in range(0, len(out), 7):
        assert torch.equal(run(alone(case, row, random))[0][0], out[row])


def test_infinities_and_nan_stay_with_the_rows_that_see_them() -> None:
    case = random_case(11, max_rows=30)
    clean, _ = run(case)
    case.q[0, 1, 3] = torch.nan
    out, lse = run(case)
    assert out[0, 1].isnan().all()
    assert lse[0, 1].isnan()
    out[0, 1] = clean[0, 1]
    assert torch.equal(out, clean)


def test_own_threads_are_as_many_as_torch_had_and_torch_has_one() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        if _native.thread_pool()[0] != "torch":  # before 2.10 torch lends its threads to nobody
            assert not _native.split_threads(3)
            assert torch.get_num_threads() == 3
            return
        assert _native.split_threads(3)
        assert torch.get_num_threads() == 1
        assert _native.thread_pool() == ("torch", 3)
        case = random_case(9, max_rows=70, reads=8)
        expected, _ = run(case)
        assert torch.get_num_threads() == 1
        assert _native.split_threads(None)
        assert torch.get_num_threads() == 3
        assert _native.thread_pool() == ("torch", 3)
        assert torch.equal(run(case)[0], expected)
    finally:
        torch.set_num_threads(threads)


def test_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(2)
    where: dict[str, Any] = {"layer": case.layer, "num_kv_heads": case.num_kv_heads}
    monkeypatch.setattr(cuda, "is_on_device", lambda tensor: True)
    with pytest.raises(ArgumentError, match="batch_invariant"):
        ops.tree_attention(case.q, case.chunks, case.plan, **where, batch_invariant=True)
