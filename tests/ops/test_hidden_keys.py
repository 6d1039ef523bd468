"""What a row does not see does nothing to it: infinities and NaN in hidden keys and values."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hornbeam as hb
import hornbeam.ops as ops
from hornbeam._native import Plan
from tests.ops import test_attention_mass
from tests.ops.test_attention import DTYPES, INSTRUCTION_SETS, OWN, Case, random_case
from tests.ops.test_quantised_pages import FORMATS, grown
from tests.reference import attention as reference
from tests.reference import pages as reference_pages

BAD = [math.nan, math.inf, -math.inf, None]
SIDES = [[0], [1], [0, 1]]


def bad_value(value: float | None, dtype: torch.dtype) -> float:
    """``None`` stands for the greatest finite number."""
    return torch.finfo(dtype).max if value is None else value


def hidden(case: Case, row: int, value: float, sides: list[int]) -> Case:
    """The case with a number in every slot that the row does not see."""
    seen = reference.slots_seen(
        case.chunks,
        case.plan,
        row,
        layer=case.layer,
        num_kv_heads=case.num_kv_heads,
        window=case.options.get("window"),
    )
    return dataclasses.replace(case, chunks=reference.with_hidden(case.chunks, seen, value, sides))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    head_dim=st.sampled_from([4, 20, 32, 64, 72, 128]),
    group=st.integers(1, 7),
    dtype=st.sampled_from(DTYPES),
    max_rows=st.sampled_from([1, 4, 12, 70]),
    window=st.none() | st.integers(1, 320),
    value=st.sampled_from(BAD),
    sides=st.sampled_from(SIDES),
    data=st.data(),
)
def test_hidden_slots_might_as_well_be_zeros(
    seed: int,
    head_dim: int,
    group: int,
    dtype: torch.dtype,
    max_rows: int,
    window: int | None,
    value: float | None,
    sides: list[int],
    data: st.DataObject,
) -> None:
    """Siblings, descendants, other requests, keys before the window, slots nobody wrote, other planes."""
    case = random_case(
        seed, head_dim=head_dim, group=group, dtype=dtype, max_rows=max_rows, window=window, soft_cap=None
    )
    row = data.draw(st.integers(0, case.q.shape[0] - 1))
    clean = hidden(case, row, 0.0, sides)
    bad = hidden(case, row, bad_value(value, dtype), sides)
    out, lse = (result[row] for result in clean.run())
    assert out.isfinite().all()
    for isa in INSTRUCTION_SETS:
        got, got_lse = bad.run(isa)
        assert torch.equal(got[row], out), isa
        assert torch.equal(got_lse[row], lse), isa
    for mine, zeros in zip(
        test_attention_mass.run(bad, [row]), test_attention_mass.run(clean, [row]), strict=True
    ):
        assert torch.equal(mine, zeros)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    group=st.integers(1, 5),
    dtype=st.sampled_from(DTYPES),
    max_rows=st.sampled_from([4, 12, 70]),
    value=st.sampled_from(BAD[:3]),
    side=st.integers(0, 1),
    data=st.data(),
)
def test_rows_that_see_it_are_those_of_the_reference(
    seed: int,
    group: int,
    dtype: torch.dtype,
    max_rows: int,
    value: float,
    side: int,
    data: st.DataObject,
) -> None:
    """One element of one row's own key or value: rows that do not see it keep every bit; rows that see it
    have no numbers where the reference has none and, of a value, elsewhere the bits they have with a zero."""
    case = random_case(seed, group=group, dtype=dtype, max_rows=max_rows)
    writer = data.draw(st.integers(0, case.q.shape[0] - 1))
    element = data.draw(st.integers(0, case.q.shape[2] - 1))
    slab, slot = case.plan.row_slots.tolist()[writer]
    chunk, at = divmod(slab, case.chunks[0].shape[1])

    def with_element(x: float) -> Case:
        chunks = [chunk.clone() for chunk in case.chunks]
        chunks[chunk][:, at, side, slot, element] = x
        return dataclasses.replace(case, chunks=chunks)

    bad, clean = with_element(value), with_element(0.0)
    want, *_ = bad.expected()
    out, _ = bad.run()
    assert torch.equal(out.isfinite(), want.isfinite())
    zeros, _ = clean.run()
    finite = want.isfinite()
    if side == 0:  # a score of -inf is a number: its key weighs nothing
        where = {"layer": case.layer, "num_kv_heads": case.num_kv_heads}
        for row in range(len(want)):
            seen = reference.slots_seen(case.chunks, case.plan, row, **where)[chunk]
            finite[row] = not seen[:, at, slot].any()
    assert torch.equal(out[finite], zeros[finite])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [8, 300])
def test_a_chain_and_a_long_window(rows: int, dtype: torch.dtype) -> None:
    """Prefill and decode: a value of a late row must not reach earlier rows; keys before a window are hidden
    over many blocks."""
    page_tokens, slabs = 16, 64
    generator = torch.Generator().manual_seed(rows)
    chunk = torch.randn(2, slabs, 2, page_tokens, 32, generator=generator).to(dtype)
    entries = np.array([[i, page_tokens << 16, i * page_tokens, -1] for i in range(40)], np.int32)
    reads = np.array([[0, 40, 0, rows, 640, 0, -1, 0], [0, 0, 0, rows, rows, OWN, -1, 0]], np.int32)
    slots = np.array([[40 + i // page_tokens, i % page_tokens] for i in range(rows)], np.int32)
    plan = Plan(
        entries,
        np.zeros(0, np.int32),
        np.zeros((0, 2), np.int32),
        reads,
        np.arange(640, 640 + rows, dtype=np.int32),
        np.full(rows, rows, np.int32),
        slots,
    )
    q = torch.randn(rows, 4, 32, generator=generator)
    for window in (None, 5, 100, 400):
        case = Case(q, [chunk], plan, 0, 2, {"window": window})
        for row in (0, rows // 2, rows - 1):
            want, _ = hidden(case, row, 0.0, [0, 1]).run()
            for value in BAD:
                got, _ = hidden(case, row, bad_value(value, dtype), [0, 1]).run()
                assert torch.equal(got[row], want[row])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_steps_of_hidden_keys_in_codes(name: str, rows: int) -> None:
    """Offsets and steps of tokens before the window, and behind the last token of a page."""
    tokens, head_dim = 70, 64
    tree, branch, _, _ = grown(tokens, head_dim=head_dim, seed=rows)
    node = tree.nodes(branch)[0][0]
    tree.quantise(branch, node, [name] * tokens, digest=5, by_head=False, partial=True)
    number, capacity = ops.page_formats(tree.chunks[0])[name]
    bits, key_group, channels, _ = reference_pages.FORMATS[number]
    padded, row_bytes = -(-head_dim // 16) * 16, -(-head_dim * bits // 128) * 16
    key_params = 2 * capacity * row_bytes
    value_params = key_params + (4 * capacity if key_group == 0 else -(-capacity // key_group) * 4 * padded)
    tables = [value_params + 2 * capacity * i for i in range(2 * -(-head_dim // channels))]
    if key_group == 0:
        tables += [key_params, key_params + 2 * capacity]
    shown = tree._native.keys(branch._id, 0)
    window = 30
    first = tokens + rows - window  # what the last row sees begins here
    generator = torch.Generator().manual_seed(rows)
    q = torch.randn(rows, 4, head_dim, generator=generator)
    k, v = torch.randn(2, rows, 2, head_dim, generator=generator)
    with tree.step([(branch, [0] * rows, None)]) as step:
        ops.write_rows(k, v, tree.chunks, step.plan, layer=0, num_kv_heads=2)
        outs = []
        for bad in (False, True):
            chunks = [chunk.clone() for chunk in tree.chunks]
            for slab in set(shown[:, 1].tolist()):
                here = shown[shown[:, 1] == slab]
                seen = {int(slot) for _, _, slot, position in here.tolist() if position >= first}
                for plane in range(2):
                    page = chunks[slab // tree.slabs_per_chunk][plane, slab % tree.slabs_per_chunk]
                    halves = page.view(-1).view(torch.int16)
                    for table in tables:
                        for slot in set(range(capacity)) - seen:
                            halves[table // 2 + slot] = 0x7E00 if bad else 0
            case = Case(q, chunks, step.plan, 0, 2, {"window": window, "scale": 0.05})
            outs.append([case.run(isa)[0][-1] for isa in INSTRUCTION_SETS])
    assert outs[0][0].isfinite().all()
    for clean, bad in zip(*outs, strict=True):
        assert torch.equal(clean, bad)


def test_a_chain_in_torchs_attention() -> None:
    """A long prompt, whose rows go to torch's fused attention: rows before a bad value keep their bits."""
    from hornbeam.model.attention import DENSE_ROWS, PagedAttention

    rows, bad = DENSE_ROWS + 40, DENSE_ROWS + 5
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, rows, 32, generator=generator)

    def run(value: float, side: str) -> Tensor:
        tree = hb.PrefixTree(num_layers=1, num_kv_heads=2, head_dim=32)
        shape = type("Shape", (), {"num_kv_heads": 2, "dtype": torch.float32})()
        module = type("Module", (torch.nn.Module,), {"layer_idx": 0})()
        key, values = k.clone(), v.clone()
        {"key": key, "value": values}[side][0, :, bad:] = value
        with tree.step([(tree.branch(), [0] * rows, None)]) as step:
            attention = PagedAttention(tree, shape, step.plan, is_dense=True)
            assert attention.dense
            return attention(module, q, key, values, None, {"scaling": 0.2})[0]

    for side in ("key", "value"):
        clean = run(0.0, side)
        for value in BAD:
            got = run(bad_value(value, torch.float32), side)
            torch.testing.assert_close(got[:bad], clean[:bad], rtol=1e-5, atol=1e-5)
            if value is not None:
                assert not got[bad:].isfinite().any()
