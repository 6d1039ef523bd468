"""Selected pages: sets against a reference from the papers, attention over them against float64."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import hornbeam.ops as ops
from hornbeam import _native
from hornbeam._native import AttendRule, Plan, Selection
from hornbeam.errors import ArgumentError
from tests.ops.test_attention import DTYPES, INSTRUCTION_SETS, OWN, Case, assert_within, random_case
from tests.ops.test_quantised_pages import FORMATS, grown
from tests.reference import attend as reference
from tests.reference.attend import Rule

RULES = [
    Rule(k=3),
    Rule(k=5, sinks=4, window=60),
    Rule(share=0.25, group="union"),
    Rule(k=4, slack=0.5),
    Rule(select="topp", p=0.6123, slack=0.0, group="layer"),
    Rule(estimate="mean", share=0.4, group="layer"),
    Rule(estimate="mean", k=2, group="union", window=300),
    Rule(select="topp", p=0.83, floor=2, cap=9),
    Rule(select="topp", p=0.457, group="union", sinks=30),
    Rule(select="topp", p=0.7123, group="layer"),
    Rule(select="threshold", threshold=0.0371, floor=1),
    Rule(select="threshold", threshold=0.0731, group="union", cap=2),
    Rule(select="elbow", floor=1, cap=12),
    Rule(select="elbow", estimate="mean", group="union"),
    Rule(select="none", sinks=8, window=40),
]
Intervals = list[tuple[int, int, Rule]]


def native(rule: Rule) -> AttendRule:
    return AttendRule(**asdict(rule))


def tree_of(chunks: list[Tensor]) -> _native.Tree:
    """A tree over a pool that somebody else has filled."""
    planes, slabs, _, page_tokens, head_dim = chunks[0].shape
    dtype = str(chunks[0].dtype).removeprefix("torch.")
    tree = _native.Tree(planes, slabs, page_tokens, head_dim, dtype)
    held: list[Tensor] = []
    for chunk in chunks:
        tree.add_chunk(held, chunk)
    return tree


def select(
    case: Case, rules: Intervals, tree: _native.Tree | None = None, isa: str | None = None
) -> Selection:
    tree = tree_of(case.chunks) if tree is None else tree
    asked = [(begin, end, native(rule)) for begin, end, rule in rules]
    scale = case.options.get("scale")
    return _native.select_pages(
        tree, case.q, case.chunks, case.plan, case.layer, case.num_kv_heads, scale, asked, isa=isa
    )


def masks(selection: Selection, case: Case) -> Tensor:
    """`[num_kv_heads, group, num_rows, num_entries]`."""
    group = case.q.shape[1] // case.num_kv_heads
    rows = [
        [torch.from_numpy(selection.mask(head, member)) for member in range(group)]
        for head in range(case.num_kv_heads)
    ]
    return torch.stack([torch.stack(members) for members in rows])


def whole_numbers(case: Case, seed: int) -> Case:
    """The case with keys and queries whose scores float32 holds exactly, and which are often equal."""
    random = torch.Generator().manual_seed(seed)
    chunks = [torch.randint(-3, 4, chunk.shape, generator=random).to(chunk.dtype) for chunk in case.chunks]
    q = torch.randint(-2, 3, case.q.shape, generator=random).to(case.q.dtype)
    return dataclasses.replace(case, q=q, chunks=chunks, options={**case.options, "scale": 0.0625})


@st.composite
def intervals(draw: st.DrawFn, num_rows: int, rules: list[Rule] = RULES) -> Intervals:
    """Rules of disjoint rows, some rows without one, in any order."""
    cuts = sorted(draw(st.sets(st.integers(0, num_rows), min_size=2, max_size=6)))
    found = [
        (begin, end, draw(st.sampled_from(rules)))
        for begin, end in itertools.pairwise(cuts)
        if draw(st.booleans())
    ]
    return draw(st.permutations(found))


def is_by_head(plan: Plan) -> bool:
    return len(plan.head_ranges) > 0


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    head_dim=st.sampled_from([8, 20, 32, 64]),
    group=st.integers(1, 8),
    dtype=st.sampled_from(DTYPES),
    max_rows=st.sampled_from([1, 4, 12]),
    data=st.data(),
)
def test_selected_sets_are_those_of_the_papers(
    seed: int, head_dim: int, group: int, dtype: torch.dtype, max_rows: int, data: st.DataObject
) -> None:
    """Several requests with different rules, dense rows beside, draft trees, tables by head."""
    case = whole_numbers(
        random_case(seed, head_dim=head_dim, group=group, dtype=dtype, max_rows=max_rows), seed
    )
    known = [rule for rule in RULES if rule.group != "layer" or not is_by_head(case.plan)]
    rules = data.draw(intervals(len(case.q), known))
    options = {"layer": case.layer, "num_kv_heads": case.num_kv_heads}
    want = reference.selected(case.q, case.chunks, case.plan, rules, scale=0.0625, **options)
    assume(want.margin > 1e-5)
    tree = tree_of(case.chunks)
    for isa in INSTRUCTION_SETS:  # what the first call has kept, the others find
        selection = select(case, rules, tree, isa)
        assert torch.equal(masks(selection, case), want.read)
        counts = case.plan.entries[:, 1] >> 16 & 0xFFFF
        units = want.read.any(1).any(1).numpy()
        assert selection.num_units == units.sum()
        assert selection.union_keys == (units * counts).sum()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    head_dim=st.sampled_from([4, 20, 32, 64, 128]),
    group=st.integers(1, 8),
    dtype=st.sampled_from(DTYPES),
    max_rows=st.sampled_from([1, 4, 12, 70]),
    window=st.none() | st.integers(1, 320),
    sinks=st.booleans(),
    soft_cap=st.none() | st.just(4.0),
    data=st.data(),
)
def test_attention_over_selected_pages(
    seed: int,
    head_dim: int,
    group: int,
    dtype: torch.dtype,
    max_rows: int,
    window: int | None,
    sinks: bool,
    soft_cap: float | None,
    data: st.DataObject,
) -> None:
    options = {"window": window, "with_sinks": sinks, "soft_cap": soft_cap}
    case = random_case(seed, head_dim=head_dim, group=group, dtype=dtype, max_rows=max_rows, **options)
    known = [rule for rule in RULES if rule.group != "layer" or not is_by_head(case.plan)]
    selection = select(case, data.draw(intervals(len(case.q), known)))
    check_attention(case, selection)


def check_attention(case: Case, selection: Selection) -> None:
    """What each row reads by the selection, and nothing else, on every instruction set and thread count."""
    options = {"layer": case.layer, "num_kv_heads": case.num_kv_heads, **case.options}
    want = reference.attend(case.q, case.chunks, case.plan, masks(selection, case), **options)
    out, lse = attend(case, selection)
    assert_within(out, want[0], want[2])
    assert_within(lse, want[1], want[3])
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for isa in INSTRUCTION_SETS:
                again = attend(case, selection, isa)
                assert torch.equal(again[0], out), (isa, count)
                assert torch.equal(again[1], lse), (isa, count)
    finally:
        torch.set_num_threads(threads)


def attend(case: Case, selection: Selection, isa: str | None = None) -> tuple[Tensor, Tensor]:
    out, lse = torch.full(case.q.shape, math.nan), torch.full(case.q.shape[:2], math.nan)
    named = {"scale": None, "window": None, "soft_cap": None, "sinks": None, **case.options}
    _native.tree_attention(
        case.q,
        case.chunks,
        case.plan,
        out,
        lse,
        case.layer,
        case.num_kv_heads,
        **named,
        isa=isa,
        selection=selection,
    )
    return out, lse


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    group=st.integers(1, 8),
    dtype=st.sampled_from(DTYPES),
    rule=st.sampled_from(
        [
            Rule(share=1.0),
            Rule(k=1000, group="union"),
            Rule(select="none", window=1 << 20),
            Rule(select="topp", p=1.0, floor=999),
        ]
    ),
)
def test_a_selection_of_everything_changes_rounding_alone(
    seed: int, group: int, dtype: torch.dtype, rule: Rule
) -> None:
    case = random_case(seed, group=group, dtype=dtype)
    selection = select(case, [(0, len(case.q), rule)])
    assert selection.union_keys == selection.plan_keys
    for got, want in zip(attend(case, selection), case.run(), strict=True):
        if is_by_head(case.plan):
            assert torch.equal(got, want)
        else:
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), group=st.integers(1, 5), data=st.data())
def test_a_row_selects_alone(seed: int, group: int, data: st.DataObject) -> None:
    """A row's set is the same with any rows and rules beside it, whatever was asked of the tree before."""
    case = random_case(seed, group=group)
    known = [rule for rule in RULES if rule.group != "layer" or not is_by_head(case.plan)]
    row = data.draw(st.integers(0, len(case.q) - 1))
    rule = data.draw(st.sampled_from(known))
    alone = masks(select(case, [(row, row + 1, rule)]), case)[:, :, row]
    tree = tree_of(case.chunks)
    for _ in range(2):
        others = [part for part in data.draw(intervals(len(case.q), known)) if not part[0] <= row < part[1]]
        q = case.q + torch.randn(case.q.shape)
        q[row] = case.q[row]
        beside = dataclasses.replace(case, q=q)
        got = masks(select(beside, [*others, (row, row + 1, rule)], tree), case)[:, :, row]
        assert torch.equal(got, alone)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([3, 8, 16, 40]),
    dtype=st.sampled_from(DTYPES),
    size=st.sampled_from([1e-3, 1.0, 300.0]),
)
def test_a_bound_is_a_bound(seed: int, dim: int, dtype: torch.dtype, size: float) -> None:
    """Top-1 by bounds never leaves out a page with a key whose score is above every other page's bound."""
    random = torch.Generator().manual_seed(seed)
    keys = (torch.randn(64, 16, dim, generator=random) * size).to(dtype).double()
    query = torch.randn(dim, generator=random).double()
    for page in keys:
        assert reference.estimate("bounds", query, page) >= float((page @ query).max()) - 1e-9


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("by_head", [False, True])
def test_pages_in_codes(name: str, rows: int, by_head: bool) -> None:
    """Keys in codes beside plain ones: bounds are those of the decoded keys, rounded outwards."""
    tokens, heads = 400, 2
    tree, branch, _, _ = grown(tokens, heads=heads, seed=rows)
    node = tree.nodes(branch)[0][0]
    formats: Any = [name] * 300 + [None] * 100
    planes = [formats, formats[50:] + [None] * 50]
    tree.quantise(branch, node, planes if by_head else formats, digest=5, by_head=by_head)
    random = torch.Generator().manual_seed(7)
    q = torch.randn(rows, 6, 64, generator=random)
    k, v = torch.randn(2, rows, heads, 64, generator=random)
    rules = [
        (0, max(rows // 2, 1), Rule(k=3)),
        (rows // 2 + 1, rows, Rule(select="topp", p=0.9, group="union")),
    ]
    rules = [rule for rule in rules if rule[0] < rule[1]]
    with tree.step([(branch, [0] * rows, None)]) as step:
        ops.write_rows(k, v, tree.chunks, step.plan, layer=0, num_kv_heads=heads)
        case = Case(q, tree.chunks, step.plan, 0, heads, {"scale": 0.05})
        selection = select(case, rules, tree._native)
        assert (selection.union_keys < selection.plan_keys) == (rows == 1)  # of 30 rows one has no rule
        check_attention(case, selection)
        want = reference.selected(
            case.q, case.chunks, case.plan, rules, scale=0.05, layer=0, num_kv_heads=heads
        )
        # Bounds of decoded keys are rounded to the type of the page: sets may differ where scores are near.
        same = (masks(selection, case) == want.read).float().mean()
        assert same > 0.97


def test_steps_of_a_tree() -> None:
    """A draft tree and a chain of another branch, over a shared prefix whose heads were evicted from."""
    tree, branch, _, _ = grown(300, heads=2, dtype=torch.float32, page_tokens=8)
    other = branch.fork()
    node = tree.nodes(branch)[0][0]
    keep = [list(range(0, 300, 2)), list(range(100, 300))]
    tree.compact(branch, node, keep, digest=3, by_head=True)
    random = torch.Generator().manual_seed(1)
    requests = [(branch, [1, 2, 3, 4], [-1, 0, 0, 2]), (other, [5, 6], None)]
    q = torch.randn(6, 8, 64, generator=random)
    k, v = torch.randn(2, 6, 2, 64, generator=random)
    with tree.step(requests) as step:
        ops.write_rows(k, v, tree.chunks, step.plan, layer=0, num_kv_heads=2)
        case = Case(q, tree.chunks, step.plan, 0, 2, {"scale": 0.03125})
        rules = [(0, 4, Rule(k=4, sinks=1, window=6)), (4, 6, Rule(share=0.1, group="union"))]
        selection = select(case, rules, tree._native)
        want = reference.selected(q, tree.chunks, step.plan, rules, scale=0.03125, layer=0, num_kv_heads=2)
        assert torch.equal(masks(selection, case), want.read)
        check_attention(case, selection)
        with pytest.raises(ArgumentError, match="group is layer, expected max or union"):
            select(case, [(0, 6, Rule(k=1, group="layer"))], tree._native)


def test_long_context_is_split_over_pages() -> None:
    """20,000 keys of one sequence: a piece has pages from all over, and blocks end within pages."""
    slabs, page_tokens = 1300, 16
    chunk = torch.randn(2, slabs, 2, page_tokens, 64, generator=torch.Generator().manual_seed(0))
    table = np.array([[i, page_tokens << 16, i * page_tokens, -1] for i in range(1250)], np.int32)
    reads = np.array([[0, 1250, 0, 9, 20000, 0, -1, 0], [0, 0, 0, 9, 9, OWN, -1, 0]], np.int32)
    slots = np.array([[1290, i] for i in range(9)], np.int32)
    ends = np.array([9, 9, 5, 5, 5, 9, 9, 9, 9], np.int32)
    empty = np.zeros(0, np.int32)
    positions = np.full(9, 20000, np.int32)
    plan = Plan(table, empty, empty.reshape(0, 2), reads, positions, ends, slots)
    q = torch.randn(9, 6, 64, generator=torch.Generator().manual_seed(1))
    for options in ({}, {"window": 5000}):
        case = Case(q, [chunk], plan, 0, 2, options)
        check_attention(case, select(case, [(0, 9, Rule(share=1 / 8, group="union"))]))
        check_attention(case, select(case, [(2, 3, Rule(k=300))]))


def test_nan_and_infinite_keys_are_read() -> None:
    """A page with a key that is no number is among the chosen: what a dense read shows is not hidden."""
    tree, branch, _, _ = grown(160, heads=2, dtype=torch.float32)
    with tree.step([(branch, [1], None)]) as step:
        q = torch.randn(1, 4, 64)
        for bad in (math.nan, math.inf, -math.inf):
            chunks = [chunk.clone() for chunk in tree.chunks]
            chunks[0][:, 4, 0, 3, 9] = bad
            case = Case(q, chunks, step.plan, 0, 2, {})
            mask = masks(select(case, [(0, 1, Rule(k=2))]), case)
            assert mask[:, :, 0, 4].all()


def test_what_is_not_selected_is_not_read() -> None:
    """Keys and values of other pages may be anything."""
    case = random_case(23, group=2, reads=2)
    rule = Rule(share=0.2)
    selection = select(case, [(0, len(case.q), rule)])
    out, lse = attend(case, selection)
    seen = masks(selection, case).any(1).any(1)
    if is_by_head(case.plan):
        pytest.skip("pages of several heads")
    for head in range(case.num_kv_heads):
        plane = case.layer * case.num_kv_heads + head
        kept = {int(case.plan.entries[e, 0]) for e in torch.nonzero(seen[head])[:, 0].tolist()}
        kept |= set(case.plan.row_slots[:, 0].tolist())
        for slab in set(range(48)) - kept:
            case.chunks[slab // 24][plane, slab % 24] = math.nan
    again = attend(case, selection)
    assert torch.equal(again[0], out)
    assert torch.equal(again[1], lse)
