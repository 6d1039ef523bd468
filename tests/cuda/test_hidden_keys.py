"""What a row does not see does nothing to it, in the CUDA kernels."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from hornbeam import ops
from tests.cuda.emulator import Device, Emulation, current
from tests.cuda.plans import DTYPES, Case, forest
from tests.cuda.test_attention import on_device
from tests.cuda.test_mass import on_device as mass_on_device
from tests.reference import attention as reference

pytestmark = pytest.mark.usefixtures("backend")

CUTS = [None, {"blocks": 1000, "least_tiles": 1}]


def hidden(case: Case, row: int, value: float, window: int | None) -> Case:
    """The case with a number in every slot that the row does not see."""
    layer = case.num_layers - 1
    seen = reference.slots_seen(
        case.chunks, case.plan, row, layer=layer, num_kv_heads=case.num_kv_heads, window=window
    )
    return dataclasses.replace(case, chunks=reference.with_hidden(case.chunks, seen, value, [0, 1]))


def mass_of(case: Case, q: torch.Tensor, row: int, window: int | None) -> tuple[torch.Tensor, ...]:
    width = sum(count for _, _, count in ops.mass_columns(case.plan, [row]))
    mass = torch.zeros(case.num_kv_heads, width, dtype=torch.int64)
    lse = torch.full((1, q.shape[1]), torch.nan)
    return mass_on_device(case, q[[row]], [row], mass, torch.zeros_like(mass).int(), lse, window=window)


@pytest.mark.parametrize("head_dim", [12, 64, 72, 128, 160, 320])
@pytest.mark.parametrize("dtype", DTYPES)
def test_hidden_slots_might_as_well_be_zeros(dtype: torch.dtype, head_dim: int) -> None:
    """Plain and tensor-core kernels, few and many queries, splits and their merge, windows, and mass."""
    simt = current()
    simt.seed(head_dim)
    random = np.random.default_rng(head_dim)
    # Queries of an item: up to 16, 32 and 64, which the tensor-core kernels divide in three ways.
    for trial, (group, most_rows) in enumerate([(1, 4), (3, 8), (8, 8)]):
        case = forest(
            random,
            dtype=dtype,
            head_dim=head_dim,
            num_kv_heads=1,
            num_layers=1,
            most_rows=most_rows,
            prefix_keys=90,
            by_head=trial == 1,
        )
        generator = torch.Generator().manual_seed(trial)
        rows, layer = case.plan.num_rows, case.num_layers - 1
        q = torch.randn(rows, group, head_dim, generator=generator).to(dtype)
        window = int(random.integers(5, 80)) if trial else None
        cut = CUTS[trial % 2]
        row = int(random.integers(rows))
        clean = hidden(case, row, 0.0, window)
        want, want_lse = on_device(simt, q, clean, layer=layer, cut=cut, window=window)
        assert want[row].isfinite().all()
        mass = mass_of(clean, q, row, window)
        for value in (math.nan, math.inf, -math.inf, torch.finfo(dtype).max):
            bad = hidden(case, row, value, window)
            got, got_lse = on_device(simt, q, bad, layer=layer, cut=cut, window=window)
            assert torch.equal(got[row], want[row])
            assert torch.equal(got_lse[row], want_lse[row])
            for mine, zeros in zip(mass_of(bad, q, row, window), mass, strict=True):
                assert torch.equal(mine, zeros)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_see_it_are_those_of_the_reference(simt: Emulation | Device, dtype: torch.dtype) -> None:
    """One element of one row's own value: the bits of all else are those with a zero there."""
    random = np.random.default_rng(7)
    for trial, value in enumerate((math.nan, math.inf, -math.inf)):
        case = forest(random, dtype=dtype, head_dim=64, most_rows=8, prefix_keys=30)
        group, layer = (1, 3, 8)[trial], case.num_layers - 1
        generator = torch.Generator().manual_seed(trial)
        q = torch.randn(case.plan.num_rows, case.num_kv_heads * group, 64, generator=generator).to(dtype)
        writer, element = int(random.integers(case.plan.num_rows)), int(random.integers(64))
        slab, slot = case.plan.row_slots.tolist()[writer]
        chunk, at = divmod(slab, case.chunks[0].shape[1])
        case.chunks[chunk][:, at, 1, slot, element] = 0.0
        zeros, _ = on_device(simt, q, case, layer=layer)
        case.chunks[chunk][:, at, 1, slot, element] = value
        got, _ = on_device(simt, q, case, layer=layer)
        want, _ = reference.tree_attention(
            q, case.chunks, case.plan, layer=layer, num_kv_heads=case.num_kv_heads
        )
        assert not want.isfinite().all()
        assert torch.equal(got.isfinite(), want.isfinite())
        assert torch.equal(got[want.isfinite()], zeros[want.isfinite()])
