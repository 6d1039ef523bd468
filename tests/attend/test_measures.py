"""What a selection holds of attention, beside a walk over single rows and keys in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.attend import Selected, measures
from hornbeam.errors import ShapeError


@st.composite
def cases(draw: st.DrawFn) -> tuple[Selected, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A selection of any units, and arrays whose scores have ties."""
    kv_heads, group, dim = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    num_keys = draw(st.integers(1, 40))
    num_rows = draw(st.integers(1, num_keys))
    row_tokens, key_tokens = draw(st.sampled_from([1, 3, 8])), draw(st.sampled_from([1, 4, 16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    shape = (kv_heads * group, -(-num_rows // row_tokens), -(-num_keys // key_tokens))
    units = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.8, 1.1]))
    q = torch.randint(-2, 3, (shape[0], num_rows, dim), generator=generator).float()
    k = torch.randint(-2, 3, (kv_heads, num_keys, dim), generator=generator).float()
    v = torch.randn(kv_heads, num_keys, dim, generator=generator)
    return Selected(units, num_rows, num_keys, row_tokens, key_tokens, ("any",) * shape[0]), q, k, v


def walked(selected: Selected, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> Any:
    """Mass, top-k recall, error and share of each head, one row after the other; and which keys are read."""
    found, sets = [], []
    for head in range(len(q)):
        keys, values = (x[head * len(k) // len(q)].double() for x in (k, v))
        mass, recalled, wrong, whole, read, every = 0.0, 0.0, 0.0, 0.0, 0, 0
        for row in range(selected.num_rows):
            position = selected.num_keys - selected.num_rows + row
            units = selected.units[head, row // selected.row_tokens]
            own = [key for key in range(position + 1) if units[key // selected.key_tokens]]
            scores = scale * keys[: position + 1] @ q[head, row].double()
            weights = scores.softmax(0)
            best = sorted(range(position + 1), key=lambda key: (-float(scores[key]), key))[: len(own)]
            mass += float(weights[own].sum())
            recalled += len(set(best) & set(own)) / len(own) if own else 1.0
            out = scores[own].softmax(0) @ values[own]
            dense = weights @ values[: position + 1]
            wrong, whole = wrong + float((out - dense).square().sum()), whole + float(dense.square().sum())
            read, every = read + len(own), every + position + 1
            sets.append((head, row, own))
        rows = selected.num_rows
        found.append([mass / rows, recalled / rows, (wrong / whole) ** 0.5, read / every])
    return torch.tensor(found, dtype=torch.float64), sets


@settings(max_examples=60, deadline=None)
@given(case=cases(), at_once=st.sampled_from([1, 7, 512]), scale=st.sampled_from([None, 0.5]))
def test_measures_are_those_of_a_walk(case: Any, at_once: int, scale: float | None) -> None:
    selected, q, k, v = case
    factor = q.shape[2] ** -0.5 if scale is None else scale
    expected, sets = walked(selected, q, k, v, factor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "ROWS_AT_ONCE", at_once)
        found = hb.attend.missed(selected, q, k, v, scale=scale)
    table = torch.stack([found.mass, found.top_k, found.error, found.shares], dim=1)
    torch.testing.assert_close(table, expected, atol=1e-5, rtol=1e-5)
    for head, row, own in sets:
        assert selected.mask(head)[row].nonzero().flatten().tolist() == own
        assert int(selected.counts[head, row]) == len(own)
    without = hb.attend.missed(selected, q, k, scale=scale)
    assert without.error is None
    torch.testing.assert_close(without.mass, found.mass)


@settings(max_examples=60, deadline=None)
@given(case=cases(), most=st.integers(1, 12))
def test_cells_are_shares_of_pairs(case: Any, most: int) -> None:
    selected = case[0]
    cells, side = selected.cells(most)
    assert cells.shape[1] == cells.shape[2] == -(-selected.num_keys // side) <= most
    for head in range(len(cells)):
        mask, read, every = selected.mask(head), {}, {}
        for row, position in enumerate(selected.positions.tolist()):
            for key in range(position + 1):
                cell = (position // side, key // side)
                every[cell] = every.get(cell, 0) + 1
                read[cell] = read.get(cell, 0) + int(mask[row, key])
        expected = torch.zeros_like(cells[head])
        for cell, count in every.items():
            expected[cell] = read[cell] / count
        torch.testing.assert_close(cells[head], expected)


def test_a_selection_of_everything_misses_nothing() -> None:
    q, k, v = torch.randn(4, 30, 8), torch.randn(2, 50, 8), torch.randn(2, 50, 8)
    everything = Selected(torch.ones(4, 30, 4, dtype=torch.bool), 30, 50, 1, 16, ("all",) * 4)
    found = hb.attend.missed(everything, q, k, v)
    torch.testing.assert_close(found.mass, torch.ones(4, dtype=torch.float64))
    assert found.error is not None
    assert float(found.error.max()) < 1e-6
    assert found.top_k.tolist() == found.shares.tolist() == [1.0] * 4


def test_arrays_of_another_shape_are_refused() -> None:
    selected = Selected(torch.ones(4, 30, 4, dtype=torch.bool), 30, 50, 1, 16, ("all",) * 4)
    q, k = torch.randn(4, 30, 8), torch.randn(2, 50, 8)
    with pytest.raises(ShapeError, match="the selection is of 4 heads, 30 rows and 50 keys, expected those"):
        hb.attend.missed(selected, q[:, 1:], k)
    with pytest.raises(ShapeError, match=r"v.shape is \[2, 49, 8\], expected that of k, \[2, 50, 8\]"):
        hb.attend.missed(selected, q, k, k[:, 1:])
