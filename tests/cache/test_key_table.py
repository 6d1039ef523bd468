"""The key table of a branch: what it says, that a reduction builds it once, and that it must not be old."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import hornbeam as hb
from hornbeam import _native, ops
from hornbeam.cache.key_table import KeyTable
from hornbeam.cache.tree import Branch, PrefixTree
from hornbeam.errors import ShapeError, StateError
from tests import models

PLANES, DIM = 2, 32


def grown(tokens: int) -> tuple[PrefixTree, Branch]:
    """A branch of so many tokens on pages of four, whose keys are their numbers."""
    tree = PrefixTree(num_layers=1, num_kv_heads=PLANES, head_dim=DIM, page_tokens=4)
    branch = tree.branch()
    with tree.step([(branch, list(range(tokens)), None)]) as step:
        rows = torch.arange(tokens).float()[:, None, None].expand(tokens, PLANES, DIM).contiguous()
        ops.write_rows(rows, -rows, tree.chunks, step.plan, layer=0, num_kv_heads=PLANES)
        step.commit([range(tokens)])
    return tree, branch


def test_it_says_where_the_keys_lie() -> None:
    tree, branch = grown(10)
    assert tree.key_table(branch).is_even
    now = tree.condense(branch, [[0, 3, 9], [2]], digest=1)
    assert (now.counts.tolist(), now.offsets, len(now)) == ([3, 1], [0, 3, 4], 4)
    assert [plane.tolist() for plane in now.split(now.positions)] == [[0, 3, 9], [2]]
    assert (now.plane_of.tolist(), now.formats.tolist()) == ([0, 0, 0, 1], [0] * 4)
    assert now.num_pages == int(branch.bytes_by_head().sum()) // (tree.slab_bytes // PLANES) == 2
    keys, values = now.gather(tree.chunks)
    assert keys[:, 0].tolist() == [0, 3, 9, 2]
    assert torch.equal(values, -keys)
    assert not now.is_even
    asked = tree.key_table(branch)
    assert np.array_equal(asked.entries, now.entries)
    assert np.array_equal(asked.counts, now.counts)


def test_it_has_the_rows_of_an_open_step() -> None:
    tree, branch = grown(5)
    with tree.step([(branch, [7, 8], None)]) as step:
        table = tree.key_table(branch, in_step=True)
        assert table.split(table.positions)[1].tolist() == list(range(7))
        with pytest.raises(StateError, match="has an open step"):
            tree.condense(branch, [[0], [0]], digest=1, table=table)
        step.commit([range(2)])
    with pytest.raises(StateError, match="is not what the branch shows now"):
        tree.condense(branch, [[0], [0]], digest=1, table=table)


def test_one_of_earlier_is_refused() -> None:
    tree, branch = grown(5)
    old = tree.key_table(branch)
    with tree.step([(branch, [7], None)]) as step:
        step.commit([range(1)])
    other, others = grown(6)
    for table in (old, other.key_table(others), KeyTable(_native.KeyTable(old.counts, old.entries))):
        with pytest.raises(StateError, match="is not what the branch shows now"):
            tree.condense(branch, [[0], [0]], digest=1, table=table)
    assert tree.condense(branch, [[0], [0]], digest=1, table=tree.key_table(branch)).counts.tolist() == [1, 1]


def test_arrays_that_do_not_add_up_are_refused() -> None:
    entries = np.zeros((3, 3), np.int32)
    for counts in ([1, 1], [4, -1], [3, 1]):
        with pytest.raises(ShapeError, match="3 entries in all"):
            _native.KeyTable(np.array(counts, np.int32), entries)
    assert _native.KeyTable(np.array([3, 0], np.int32), entries).pages_by_plane() == [1, 0]


@pytest.mark.parametrize("recipe", ["snap_kv", "h2o", "ems"])
def test_a_reduction_builds_it_once(monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    lm = hb.LM(models.llama(), page_tokens=4)
    built: list[bool] = []
    plain = PrefixTree.key_table

    def noted(tree: PrefixTree, branch: Branch, *, in_step: bool = False) -> KeyTable:
        built.append(in_step)
        return plain(tree, branch, in_step=in_step)

    monkeypatch.setattr(PrefixTree, "key_table", noted)
    options: dict[str, Any] = {} if recipe == "h2o" else {"window": 8}
    prompt = models.prompt(40, 0)[0].tolist()
    result = lm.generate(prompt, max_new_tokens=2, keep=getattr(hb.recipes, recipe)("50%", **options))
    assert len(result.token_ids) == 2
    assert built.count(False) == 1
