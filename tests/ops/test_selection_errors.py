"""What is no selection, no rule, or not of the tree at hand is refused by name."""

from __future__ import annotations

import pytest
import torch

import hornbeam as hb
import hornbeam.ops as ops
from hornbeam import _native, cuda
from hornbeam._native import AttendRule, Plan
from hornbeam.errors import ArgumentError, ShapeError, StateError
from tests.ops.test_attention import random_case
from tests.ops.test_selected_attention import native, select, tree_of
from tests.reference.attend import Rule


def test_errors_name_the_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(2)
    rows = len(case.q)
    selection = select(case, [(0, rows, Rule(k=2))])
    keywords = {"layer": case.layer, "num_kv_heads": case.num_kv_heads}
    twin = Plan.from_words(case.plan.words)
    with pytest.raises(ArgumentError, match="selection is of another plan"):
        ops.tree_attention(case.q, case.chunks, twin, selection=selection, **keywords)
    heads = {**keywords, "num_kv_heads": 1, "layer": 0}
    with pytest.raises(ArgumentError, match=r"selection is of .* kv heads, 2 query heads each, expected of"):
        ops.tree_attention(case.q, case.chunks, case.plan, selection=selection, **heads)
    for interval in ((0, rows + 1), (1, 1)):
        with pytest.raises(ArgumentError, match=f"rows of a rule is {interval[0]}..{interval[1]}"):
            select(case, [(*interval, Rule(k=2))])
    with pytest.raises(ArgumentError, match="rules is two for row 0"):
        select(case, [(0, 1, Rule(k=2)), (0, rows, Rule(k=3))])
    with pytest.raises(ArgumentError, match="kv_head is 2, expected less than 2"):
        selection.mask(2, 0)
    with pytest.raises(ArgumentError, match="member is 7, expected less than 2"):
        selection.mask(0, 7)
    with pytest.raises(ArgumentError, match="estimate is sketch, expected bounds or mean"):
        AttendRule(estimate="sketch", select="topk", k=3)
    with pytest.raises(ShapeError, match="expected pages of the tree"):
        select(case, [(0, 1, Rule(k=2))], tree_of([torch.zeros(4, 24, 2, 8, 32)]))
    with pytest.raises(ShapeError, match="bytes of the summaries of a chunk is 0"):
        select(case, [(0, 1, Rule(k=2))], tree_of(case.chunks[:1]))
    monkeypatch.setattr(cuda, "is_on_device", lambda tensor: True)
    with pytest.raises(ArgumentError, match="selected pages run on the CPU only yet"):
        ops.tree_attention(case.q, case.chunks, case.plan, selection=selection, **keywords)


def test_copies_that_are_not_made_come_first() -> None:
    """Where pages lie on a device, copies wait for whoever makes them: pages do not hold what they shall."""
    tree = hb.PrefixTree(num_layers=1, num_kv_heads=1, head_dim=8, page_tokens=4)
    branch = tree.branch()
    with tree.step([(branch, [1, 2], [-1, -1])]) as step:
        plan, chunks = step.plan, tree.chunks
        step._handle.commit([[1]], None, False)
    assert tree._native.next_moves() is not None
    with pytest.raises(StateError, match="the tree has copies to make"):
        _native.select_pages(
            tree._native, torch.zeros(2, 1, 8), chunks, plan, 0, 1, None, [(0, 1, native(Rule(k=2)))]
        )
