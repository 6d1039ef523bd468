"""Key mass: emulated CUDA gives the integers of Rust, which are the softmax of the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hornbeam import _native, ops
from hornbeam.errors import CudaError, ShapeError
from hornbeam.ops import MASS_ONE
from tests.cuda.emulator import Device, Emulation, on_the_device, place
from tests.cuda.plans import DTYPES, Case, forest
from tests.reference import attention as reference

pytestmark = pytest.mark.usefixtures("backend")


def on_device(
    case: Case, q: Tensor, rows: list[int], out: Tensor, seen: Tensor, lse: Tensor, **options: object
) -> tuple[Tensor, Tensor, Tensor]:
    there = [x.clone().to(place()) for x in (out, seen, lse)]
    if isinstance(sinks := options.get("sinks"), Tensor):
        options = {**options, "sinks": sinks.to(place())}
    with on_the_device():
        ops.attention_mass(
            q.to(place()),
            [chunk.to(place()) for chunk in case.chunks],
            case.plan,
            rows,
            layer=case.num_layers - 1,
            num_kv_heads=case.num_kv_heads,
            out=there[0],
            seen=there[1],
            lse=there[2],
            **options,
        )
    return there[0].cpu(), there[1].cpu(), there[2].cpu()


def check(case: Case, rows: list[int], group: int, dtype: torch.dtype, **options: object) -> int:
    """Every integer and every bit of the log-sum-exp; how many masses were compared."""
    heads, where = (
        case.num_kv_heads * group,
        {"layer": case.num_layers - 1, "num_kv_heads": case.num_kv_heads},
    )
    # Through a transpose, as a model leaves them.
    q = torch.randn(heads, len(rows), case.head_dim).to(dtype).transpose(0, 1)
    columns = ops.mass_columns(case.plan, rows)
    width = sum(count for _, _, count in columns)
    outputs = (
        torch.randint(0, 1 << 40, (case.num_kv_heads, width)),  # both add to what is there
        torch.randint(0, 9, (case.num_kv_heads, width), dtype=torch.int32),
        torch.full((len(rows), heads), torch.nan),
    )
    want, want_seen, want_lse = (x.clone() for x in outputs)
    ops.attention_mass(
        q, case.chunks, case.plan, rows, out=want, seen=want_seen, lse=want_lse, **where, **options
    )
    got, got_seen, got_lse = on_device(case, q, rows, *outputs, **options)
    assert torch.equal(got, want)
    assert torch.equal(got_seen, want_seen)
    assert torch.equal(got_lse.view(torch.int32), want_lse.view(torch.int32))
    masses, _, exact_lse = reference.attention_mass(q, case.chunks, case.plan, rows, **where, **options)
    added = (got - outputs[0]).double() / MASS_ONE
    for read, begin, count in columns:
        for head in range(case.num_kv_heads):
            exact = [masses[head].get((read, i), 0.0) for i in range(count)]
            torch.testing.assert_close(
                added[head, begin : begin + count], torch.tensor(exact).double(), rtol=1e-5, atol=1e-5
            )
    torch.testing.assert_close(got_lse.double(), exact_lse, rtol=1e-5, atol=2e-5)
    return int((want != outputs[0]).sum())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_integers_are_those_of_rust(simt: Emulation | Device, dtype: torch.dtype) -> None:
    """Trees, forests and planes that show different keys; some rows, all rows; windows, caps, sinks."""
    random = np.random.default_rng(5)
    compared = 0
    for trial, (group, head_dim, by_head) in enumerate([(1, 32, True), (3, 80, False), (7, 64, True)]):
        case = forest(
            random,
            dtype=dtype,
            head_dim=head_dim,
            by_head=by_head,
            prefix_keys=700,
            most_rows=12,
            num_requests=3,
        )
        every = range(case.plan.num_rows)
        some = [row for row in every if random.random() < 0.5] or [0]
        options: dict[str, object] = [
            {},
            {"window": 90, "scale": 0.3},
            {"soft_cap": 5.0, "sinks": torch.randn(case.num_kv_heads * group)},
        ][trial]
        for rows in (list(every), some):
            compared += check(case, rows, group, dtype, **options)
    assert compared > 10_000 / len(DTYPES)  # over the types, not counting orders of threads


def test_rows_without_keys_and_rows_that_are_no_distribution(simt: Emulation | Device) -> None:
    random = np.random.default_rng(9)
    case = forest(random, prefix_keys=40, most_rows=3, by_head=False)
    rows = list(range(case.plan.num_rows))
    q = torch.randn(len(rows), 4, 32)
    q[0, 1] = torch.nan
    q[1, 2] = torch.inf
    where = {"layer": 1, "num_kv_heads": 2}
    width = sum(count for _, _, count in ops.mass_columns(case.plan, rows))
    blank = (
        torch.zeros(2, width, dtype=torch.int64),
        torch.zeros(2, width, dtype=torch.int32),
        torch.zeros(len(rows), 4),
    )
    want = [x.clone() for x in blank]
    ops.attention_mass(q, case.chunks, case.plan, rows, out=want[0], seen=want[1], lse=want[2], **where)
    got = on_device(case, q, rows, *blank)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])
    assert torch.equal(got[2].isnan(), want[2].isnan())
    assert got[2].isnan().sum() >= 2
    torch.testing.assert_close(got[2], want[2], equal_nan=True, rtol=0, atol=0)
    # No rows, no columns.
    none = on_device(case, q[:0], [], blank[0][:, :0], blank[1][:, :0], blank[2][:0])
    assert none[0].shape == (2, 0)


def test_own_reads_without_entries_are_refused() -> None:
    """A CPU finds own keys by the slots of their rows, a kernel by entries."""
    case = forest(np.random.default_rng(3), most_rows=9, num_requests=3)
    reads = case.plan.reads.copy()
    own = reads[:, 5] == 1
    reads[own, 1] = reads[own, 0]
    names = ("entries", "positions", "head_ranges")
    arrays = [getattr(case.plan, name) for name in names]
    plan = _native.Plan(*arrays, reads, case.plan.row_positions, case.plan.row_end, case.plan.row_slots)
    with pytest.raises(CudaError, match="own read"):
        _native.CudaPlan(plan, case.chunks, 4, 2, 4)


def test_bad_shapes_are_refused() -> None:
    case = forest(np.random.default_rng(1))
    rows = list(range(case.plan.num_rows))
    width = sum(count for _, _, count in ops.mass_columns(case.plan, rows))
    mass, seen = torch.zeros(2, width, dtype=torch.int64), torch.zeros(2, width, dtype=torch.int32)
    with pytest.raises(ShapeError, match="q"):
        on_device(case, torch.randn(len(rows) + 1, 4, 32), rows, mass, seen, torch.zeros(len(rows), 4))
    with pytest.raises(ShapeError, match="seen"):
        on_device(case, torch.randn(len(rows), 4, 32), rows, mass, seen[:, 1:], torch.zeros(len(rows), 4))
