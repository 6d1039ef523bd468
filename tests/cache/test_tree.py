"""The Python layer of the prefix tree, over real pages: bytes, errors, memory."""

from __future__ import annotations

import contextlib
import gc
import threading

import numpy as np
import pytest
import torch

import hornbeam as hb
from hornbeam.cache.tree import Branch, PrefixTree, Step
from hornbeam.errors import ArgumentError, OutOfPages, StateError

LAYERS, HEADS, HEAD_DIM, PAGE = 2, 2, 8, 4


def make_tree(**options: object) -> PrefixTree:
    sizes = {"num_layers": LAYERS, "num_kv_heads": HEADS, "head_dim": HEAD_DIM, "page_tokens": PAGE}
    return PrefixTree(**{**sizes, "slabs_per_chunk": 8, **options})  # type: ignore[arg-type]


def write(tree: PrefixTree, step: Step) -> list[torch.Tensor]:
    """A model's part: random keys and values for every layer; returns them, `[rows, heads, head_dim]`."""
    written = []
    for layer in range(tree.num_physical_layers):
        k, v = torch.randn(2, step.num_rows, tree.num_kv_heads, tree.head_dim).to(tree.dtype)
        hb.ops.write_rows(k, v, tree.chunks, step.plan, layer=layer, num_kv_heads=tree.num_kv_heads)
        written.append(torch.stack([k, v], dim=2))
    return written


def extend(tree: PrefixTree, branch: Branch, tokens: list[int]) -> None:
    with tree.step([(branch, tokens, None)]) as step:
        write(tree, step)
        step.commit([range(len(tokens))])


def read(tree: PrefixTree, branch: Branch, plane: int) -> torch.Tensor:
    """Keys and values of a branch on a plane, `[num_keys, 2, head_dim]`; a copy."""
    size, rows = tree.slabs_per_chunk, []
    for by_head, page, slot, _ in tree._native.keys(branch._id, plane).tolist():
        if by_head:
            chunk, index = divmod(page, tree.num_planes * size)
            rows.append(tree.chunks[chunk].view(-1, 2, tree.page_tokens, tree.head_dim)[index, :, slot])
        else:
            rows.append(tree.chunks[page // size][plane, page % size, :, slot])
    return torch.stack(rows) if rows else torch.empty(0, 2, tree.head_dim, dtype=tree.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_commit_of_a_draft_tree_moves_the_right_bytes(dtype: torch.dtype) -> None:
    tree = make_tree(dtype=dtype)
    branch = tree.branch()
    extend(tree, branch, [1, 2, 3])
    before = [read(tree, branch, plane) for plane in range(tree.num_planes)]
    parents = [-1, 0, 0, 1, 2, 2, -1, 5]  # breadth-first, as drafts often come
    with tree.step([(branch, list(range(10, 18)), parents)]) as step:
        assert step.positions.tolist() == [3, 4, 5, 4, 5, 5, 6, 3]
        assert step.token_ids.tolist() == [10, 11, 13, 12, 14, 15, 17, 16]
        rows = step.rows[0]
        written = write(tree, step)
        step.commit([[0, 2, 5, 7]])
    assert branch.token_ids.tolist() == [1, 2, 3, 10, 12, 15, 17]
    for plane in range(tree.num_planes):
        layer, head = divmod(plane, HEADS)
        after = read(tree, branch, plane)
        assert torch.equal(after[:3], before[plane])
        assert torch.equal(after[3:], written[layer][rows[[0, 2, 5, 7]], head])
    tree.debug_check()


def test_rollback_restores_byte_for_byte() -> None:
    tree = make_tree()
    branch = tree.branch()
    extend(tree, branch, [1, 2, 3, 4, 5])
    keys = [read(tree, branch, plane) for plane in range(tree.num_planes)]
    stats = tree.stats()
    for end in ("rollback", "leave", "raise", "interrupt"):
        request = (branch, [6, 7, 8, 9, 10, 11], [-1, 0, 1, 0, 3, -1])
        with contextlib.suppress(ValueError, KeyboardInterrupt), tree.step([request]) as step:
            write(tree, step)
            if end == "raise":
                raise ValueError
            if end == "interrupt":
                raise KeyboardInterrupt
            if end == "rollback":
                step.rollback()
        assert not step.is_open
        assert tree.stats() == stats
        for plane in range(tree.num_planes):
            assert torch.equal(read(tree, branch, plane), keys[plane])
        tree.debug_check()
    extend(tree, branch, [6])
    assert branch.token_ids.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_step_that_nobody_holds_rolls_back() -> None:
    tree = make_tree()
    branch = tree.branch()
    step = tree.step([(branch, [1, 2], None)])
    del step
    gc.collect()
    extend(tree, branch, [3])
    assert branch.token_ids.tolist() == [3]


def test_forks_share_and_diverge() -> None:
    tree = make_tree()
    a = tree.branch()
    extend(tree, a, [1, 2, 3, 4, 5, 6])
    b = a.fork()
    shared = read(tree, a, 1)
    with tree.step([(a, [7], None), (b, [8, 9], None)]) as step:
        write(tree, step)
        step.commit([[0], [0, 1]])
    assert a.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert b.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 8, 9]
    assert torch.equal(read(tree, a, 1)[:6], shared)
    assert torch.equal(read(tree, b, 1)[:6], shared)
    assert (a.length, len(b), a.positions.tolist()) == (7, 8, list(range(7)))
    tree.debug_check()


def test_a_second_prompt_recomputes_nothing_of_a_shared_prefix() -> None:
    tree = make_tree()
    system = list(range(100, 110))
    first = tree.branch()
    extend(tree, first, [*system, 1, 2])
    first.release()
    held = tree.stats()["slabs"] - tree.stats()["free_slabs"]
    for tokens in ([*system, 7, 8], np.array([*system, 7, 8]), torch.tensor([*system, 7, 8])):
        second = tree.match(tokens)
        assert second.length == 10
        assert second.token_ids.tolist() == system
        second.release(keep=False)
    assert tree.match([*system, 1, 2], max_tokens=11).length == 11
    assert tree.stats()["slabs"] - tree.stats()["free_slabs"] == held
    assert tree.match([]).length == 0
    tree.debug_check()


def test_a_collected_branch_is_released() -> None:
    tree = make_tree()
    branch = tree.branch()
    extend(tree, branch, [1, 2, 3])
    del branch
    gc.collect()
    stats = tree.stats()
    assert (stats["branches"], stats["cached_slabs"]) == (0, 1)
    assert tree.match([1, 2, 3]).length == 3


def test_closed_branches_are_refused() -> None:
    tree = make_tree()
    branch = tree.branch()
    branch.release()
    branch.release()
    assert branch.is_closed
    for use in (branch.fork, lambda: branch.length, lambda: branch.token_ids, branch.pin):
        with pytest.raises(StateError, match=r"branch \d+ is closed"):
            use()
    with pytest.raises(StateError, match="is closed"):
        tree.step([(branch, [1], None)])
    assert repr(branch) == "Branch(closed)"


def test_one_step_at_a_time() -> None:
    tree = make_tree()
    a, b = tree.branch(), tree.branch()
    with tree.step([(a, [1], None)]) as step:
        with pytest.raises(StateError, match="the tree has an open step"):
            tree.step([(b, [1], None)])
        with pytest.raises(StateError, match="is in the open step"):
            a.release()
        step.commit([[0]])
        with pytest.raises(StateError, match="the step has ended"):
            step.commit([[0]])
    assert a.length == 1
    with pytest.raises(StateError, match="two requests"):
        tree.step([(a, [1], None), (a, [2], None)])
    extend(tree, a, [2])


@pytest.mark.parametrize(
    ("tokens", "parents", "message"),
    [
        ([], None, "tokens is empty"),
        ([-1], None, "token id is -1, expected 0 to 2147483647"),
        ([2**31], None, "token id is 2147483648"),
        ([1, 2], [-1], "parents is 1, expected 2"),
        ([1, 2], [-1, 1], "parents is 1 at 1, expected -1 to 0"),
        ([1, 2], [0, -1], "parents is 0 at 0"),
        ([1], [2**40], "parents is 1099511627776"),
    ],
)
def test_wrong_requests_are_named(tokens: list[int], parents: list[int] | None, message: str) -> None:
    tree = make_tree()
    branch = tree.branch()
    with pytest.raises((ArgumentError, ValueError), match=message):
        tree.step([(branch, tokens, parents)])
    extend(tree, branch, [1])
    with pytest.raises(ArgumentError, match="another tree"):
        make_tree().step([(branch, [1], None)])
    with pytest.raises(ArgumentError, match="requests is empty"):
        tree.step([])
    with pytest.raises((TypeError, ValueError)):
        tree.step([(branch, [1.5], None)])
    tree.debug_check()


def test_accepted_must_be_paths_and_the_step_stays_open() -> None:
    tree = make_tree()
    branch = tree.branch()
    with tree.step([(branch, [1, 2, 3], [-1, 0, 0])]) as step:
        for wrong in ([[1]], [[0, 1, 2]], [[3]], [[-1]], [[0], [0]], []):
            with pytest.raises((ArgumentError, ValueError)):
                step.commit(wrong)
            assert step.is_open
        step.commit([torch.tensor([0, 2])])
    assert branch.token_ids.tolist() == [1, 3]


def test_the_budget_is_hard() -> None:
    slab = make_tree().slab_bytes
    with pytest.raises(OutOfPages, match="max_bytes is"):
        make_tree(max_bytes=slab - 1)
    tree = make_tree(max_bytes=10 * slab, slabs_per_chunk=None)
    assert (tree.layout[1], tree.num_bytes) == (10, 0)
    branch = tree.branch()
    extend(tree, branch, list(range(20)))
    cached = tree.branch()
    extend(tree, cached, list(range(500, 510)))
    cached.release()
    stats, keys = tree.stats(), read(tree, branch, 0)
    with pytest.raises(OutOfPages, match="6 more slabs are needed, 5 are free within the budget of 10"):
        tree.step([(branch, list(range(24)), None)])
    with pytest.raises(MemoryError):
        tree.step([(branch, list(range(24)), None)])
    assert tree.stats() == stats
    assert torch.equal(read(tree, branch, 0), keys)
    assert tree.match(list(range(500, 510))).length == 10
    extend(tree, branch, list(range(20)))
    assert tree.num_bytes == tree.peak_bytes <= tree.max_bytes
    assert tree.match(list(range(500, 510))).length == 0, "pressure releases what nobody holds"
    tree.debug_check()


def test_the_pool_grows_and_gives_back() -> None:
    tree = make_tree(slabs_per_chunk=2)
    branch = tree.branch()
    extend(tree, branch, list(range(30)))
    assert len(tree.chunks) == 4
    branch.release(keep=False)
    assert tree.trim() == 8 * tree.slab_bytes
    assert (tree.num_bytes, tree.chunks) == (0, [])
    assert tree.peak_bytes == 8 * tree.slab_bytes
    extend(tree, tree.branch(), [1])
    tree.debug_check()


def test_pins_outlive_releases_and_clear() -> None:
    tree = make_tree()
    branch = tree.branch()
    extend(tree, branch, [1, 2, 3])
    branch.pin()
    branch.release(keep=False)
    tree.clear()
    assert tree.match([1, 2, 3]).length == 3
    gc.collect()
    branch.unpin()
    with pytest.raises(StateError, match="not pinned"):
        branch.unpin()
    tree.clear()
    assert tree.match([1, 2, 3]).length == 0


def test_layers_can_share_keys_and_values() -> None:
    tree = make_tree(num_layers=4, layer_map=[0, 0, 1, 0])
    assert (tree.num_physical_layers, tree.num_planes) == (2, 2 * HEADS)
    extend(tree, tree.branch(), [1, 2])
    for wrong in ([0, 1], [0, 2, 2, 2], [1, 1, 1, 1]):
        with pytest.raises(ArgumentError, match="layer_map"):
            make_tree(num_layers=4, layer_map=wrong)
    with pytest.raises(ArgumentError, match="dtype is"):
        make_tree(dtype=torch.int8)
    with pytest.raises(ArgumentError, match="head_dim is 0"):
        make_tree(head_dim=0)


@pytest.mark.parametrize("by_head", [False, True])
def test_compaction_keeps_the_chosen_bytes_and_leaves_others_alone(by_head: bool) -> None:
    tree = make_tree()
    a = tree.branch()
    extend(tree, a, list(range(11)))
    b = a.fork()
    exact = [read(tree, a, plane) for plane in range(tree.num_planes)]
    ((node, *_),) = tree.nodes(a)
    keep = [[0, 4, 10], [1], [], list(range(11))] if by_head else [[0, 4, 10]] * tree.num_planes
    tree.compact(a, node, keep if by_head else keep[0], digest=5, by_head=by_head)
    for plane in range(tree.num_planes):
        assert torch.equal(read(tree, a, plane), exact[plane][keep[plane]])
        assert torch.equal(read(tree, b, plane), exact[plane])
    assert a.length == 11
    stats = a.stats()
    held = (tree._native.keys(a._id, plane) for plane in range(tree.num_planes))
    pages = sum(len({page for _, page, *_ in keys.tolist()}) for keys in held)
    assert stats.pop("bytes") == pages * tree.slab_bytes // tree.num_planes
    assert stats == {"tokens": 11, "keys": 11 if by_head else 3, "nodes": 1, "inexact_nodes": 1}
    assert a.positions.tolist() == sorted({p for plane in keep for p in plane})
    extend(tree, a, [11])
    b.release(keep=False)
    assert tree.match(list(range(12))).length == 0
    tree.debug_check()


def test_columns_have_the_shape_of_what_they_describe() -> None:
    tree = make_tree()
    tree.add_column("mass", "slot", torch.float32)
    tree.add_column("bounds", "page", torch.float32, (2, HEAD_DIM))
    tree.add_column("value", "node", torch.float64)
    branch = tree.branch()
    extend(tree, branch, [1, 2, 3])
    assert tree.column("mass").shape == (tree.num_planes, 8, PAGE)
    assert tree.column("bounds").shape == (tree.num_planes, 8, 2, HEAD_DIM)
    assert tree.column("value").ndim == 1
    mass = torch.rand(tree.num_planes, 8, PAGE)
    tree.set_column("mass", mass)
    assert torch.equal(tree.column("mass"), mass)
    with pytest.raises(ArgumentError, match="column name"):
        tree.add_column("mass", "slot", torch.float32)
    with pytest.raises(ArgumentError, match="scope"):
        tree.add_column("other", "layer", torch.float32)


def test_threads_can_share_a_tree() -> None:
    tree = make_tree()
    root = tree.branch()
    extend(tree, root, list(range(50)))
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for i in range(300):
                branch = tree.match(list(range((seed * 7 + i) % 60)))
                fork = branch.fork()
                branch.release(keep=i % 2 == 0)
                assert fork.length == min((seed * 7 + i) % 60, 50)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    tree.debug_check()
    assert tree.stats()["branches"] == 1
