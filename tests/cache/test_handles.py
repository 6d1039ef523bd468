"""Branches, pins and steps end with their last reference; copies are made once, whatever strikes between."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from typing import Any

import pytest
import torch

from hornbeam import _native, cuda, ops
from hornbeam.cache.tree import Branch, PrefixTree, Step
from hornbeam.errors import ArgumentError, ShapeError, StateError
from tests.cuda.emulator import emulation

HEADS, HEAD_DIM, PAGE = 2, 8, 4


def make_tree(**options: Any) -> PrefixTree:
    sizes = {"num_layers": 1, "num_kv_heads": HEADS, "head_dim": HEAD_DIM, "page_tokens": PAGE}
    return PrefixTree(**{**sizes, "slabs_per_chunk": 8, **options})


def write(tree: PrefixTree, step: Step) -> None:
    """Keys and values of a row are 100 times its position and its token."""
    numbers = (step.positions * 100 + step.token_ids).float()
    rows = numbers[:, None, None].expand(-1, HEADS, HEAD_DIM).contiguous()
    ops.write_rows(rows, -rows, tree.chunks, step.plan, layer=0, num_kv_heads=HEADS)


def extend(tree: PrefixTree, branch: Branch, tokens: list[int], accepted: list[int] | None = None) -> None:
    """Commits a chain, or some of the children of the branch's end and their children, a star of chains."""
    parents = None if accepted is None else [-1 if t < 2 else t - 2 for t in range(len(tokens))]
    with tree.step([(branch, tokens, parents)]) as step:
        write(tree, step)
        step.commit([range(len(tokens)) if accepted is None else accepted])


def check(tree: PrefixTree, branch: Branch) -> None:
    """The branch shows the keys and values of its tokens."""
    want = [float(100 * at + token) for at, token in enumerate(branch.token_ids.tolist())]
    for plane in range(tree.num_planes):
        keys = tree._native.keys(branch._id, plane).tolist()
        for (by_head, page, slot, position), number in zip(keys, want, strict=True):
            assert (by_head, position) == (0, int(number) // 100)
            shown = tree.chunks[page // tree.slabs_per_chunk][plane, page % tree.slabs_per_chunk, :, slot]
            assert (shown[0] == number).all()
            assert (shown[1] == -number).all()
    tree.debug_check()


def test_what_python_never_received_is_ended() -> None:
    """As after an interrupt between a native call and the statement that stores what it gave."""
    tree = make_tree()
    branch = tree.branch()
    extend(tree, branch, [1, 2, 3])
    tree._native.branch()
    tree._native.fork(branch._id)
    tree._native.matching([1, 2])
    assert tree.stats()["branches"] == 1
    tree._native.pin(branch._id)
    tree._native.begin([(branch._id, [4, 5], None)], 0, [True], tree.chunks)
    assert not tree.has_open_step
    branch.release(keep=False)
    tree.clear()
    assert tree.stats()["tokens"] == 0, "nothing is pinned"
    tree.debug_check()


def test_a_branch_that_goes_while_its_step_is_open_is_closed_after_it() -> None:
    tree = make_tree()
    branch = tree.branch()
    step = tree.step([(branch, [1, 2], None)])
    step.branches.clear()
    del branch
    gc.collect()
    assert (tree.has_open_step, tree.stats()["branches"]) == (True, 1)
    step.rollback()
    assert tree.stats()["branches"] == 0
    tree.debug_check()


def test_a_step_that_was_lost_does_not_end_a_later_one() -> None:
    tree = make_tree()
    branch = tree.branch()
    lost = tree.step([(branch, [1, 2], None)])
    tree.recover()
    assert not lost.is_open
    step = tree.step([(branch, [3, 4], None)])
    lost.rollback()
    with pytest.raises(StateError, match="the step has ended"):
        lost.commit([[0]])
    del lost
    gc.collect()
    assert step.is_open
    step.commit([[0, 1]])
    assert branch.token_ids.tolist() == [3, 4]


def test_only_the_owner_recovers_a_step() -> None:
    tree, owner = make_tree(), object()
    branch = tree.branch()
    step = tree.step([(branch, [1], None)], owner=owner)
    tree.recover()
    tree.recover(owner=object())
    assert step.is_open
    tree.recover(owner=owner)
    assert not step.is_open
    step = tree.step([(branch, [1], None)])
    tree.recover(owner=owner)
    assert step.is_open
    with pytest.raises(StateError, match="the tree has an open step"):
        tree.step([(tree.branch(), [1], None)], owner=owner)
    tree.recover()
    assert not step.is_open


def go_on(tree: PrefixTree, resume: str) -> None:
    """The next call after a failure, one of three."""
    if resume == "step":
        tree.step([(tree.branch(), [1], None)]).rollback()
    elif resume == "match":
        tree.match([1])
    else:
        tree.recover()


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_branch_is_not_copied(way: Any) -> None:
    tree = make_tree()
    branch = tree.branch()
    extend(tree, branch, [1, 2])
    with pytest.raises(TypeError, match="fork"):
        way(branch)
    gc.collect()
    assert branch.length == 2


def test_pins_go_with_their_branch() -> None:
    tree = make_tree()
    branch = tree.branch()
    extend(tree, branch, [1, 2, 3])
    branch.pin()
    branch.pin()
    branch.unpin()
    branch.release(keep=False)
    tree.clear()
    assert tree.stats()["tokens"] == 3
    del branch
    gc.collect()
    assert tree.stats()["tokens"] == 0


def test_a_finaliser_that_runs_within_a_call_is_told() -> None:
    """Python code that runs while the tree is at work, here that of a number, cannot wait for it."""
    tree = make_tree()
    branch = tree.branch()

    class Number(int):
        def __index__(self) -> int:
            assert tree.stats()["branches"] == 1, "arguments are read before the tree is locked"
            return int(self)

    extend(tree, branch, [Number(3), Number(4)])
    assert branch.length == 2


def test_threads_wait_for_each_other_without_the_gil() -> None:
    """Copies are made without the GIL while the tree is locked."""
    tree = make_tree(head_dim=512, slabs_per_chunk=64)
    branches = [tree.branch() for _ in range(4)]
    failures: list[BaseException] = []
    turn = threading.Lock()

    def work(branch: Branch) -> None:
        try:
            for i in range(60):
                with turn, tree.step([(branch, list(range(40)), [-1] * 40)]) as step:
                    step.commit([[39]])
                assert branch.length == i + 1
                assert branch.fork().length == i + 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(branch,)) for branch in branches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)
    tree.debug_check()


def test_what_is_committed_inexact_is_never_matched() -> None:
    tree = make_tree()
    branch = tree.branch()
    extend(tree, branch, [1, 2, 3])
    fork = branch.fork()
    with tree.step([(fork, [4, 5], None)], exact=False) as step:
        write(tree, step)
        step.commit([[0, 1]])
    assert fork.token_ids.tolist() == [1, 2, 3, 4, 5]
    assert tree.match([1, 2, 3, 4, 5]).length == 3
    del fork, step
    gc.collect()
    assert tree.stats()["tokens"] == 3, "nor kept"
    check(tree, branch)


def test_what_another_model_computed_is_never_matched() -> None:
    tree = make_tree()
    cached, branch, pinned = tree.branch(), tree.branch(), tree.branch()
    extend(tree, cached, [1, 2, 3, 4, 5])
    cached.release()
    extend(tree, branch, [6, 7, 8])
    extend(tree, pinned, [9, 9])
    pinned.pin()
    pinned.release(keep=False)
    tree.invalidate()
    assert tree.stats()["tokens"] == 5
    for tokens in ([1, 2], [6, 7, 8], [9, 9]):
        assert tree.match(tokens).length == 0
    check(tree, branch)
    extend(tree, branch, [10])
    check(tree, branch)
    assert tree.match([6, 7, 8, 10]).length == 0
    branch.release(keep=True)
    pinned.unpin()
    assert tree.stats()["tokens"] == 0
    extend(tree, again := tree.branch(), [6, 7])
    again.release()
    assert tree.match([6, 7, 8]).length == 2
    tree.debug_check()


def test_a_step_over_a_change_of_the_model_counts_as_of_before() -> None:
    tree = make_tree()
    branch = tree.branch()
    with tree.step([(branch, [1, 2], None)]) as step:
        write(tree, step)
        tree.invalidate()
        step.commit([[0, 1]])
    check(tree, branch)
    assert tree.match([1, 2]).length == 0


def test_inexact_branches_are_not_kept() -> None:
    tree = make_tree()
    branch = tree.branch()
    extend(tree, branch, list(range(10)))
    tree.compact(branch, tree.nodes(branch)[0][0], [0, 3], digest=1, by_head=False)
    extend(tree, branch, [10, 11])
    branch.release(keep=True)
    assert tree.stats()["tokens"] == 0


# Children 0 and 1 of the end, and their children: what is accepted moves left along a chain.
STAR, ACCEPTED = [1, 2, 3, 4, 5, 6], [1, 3, 5]


def test_copies_that_could_not_be_made_are_made_later() -> None:
    for resume in ("step", "match", "recover"):
        tree = make_tree()
        branch = tree.branch()
        extend(tree, branch, [7, 7, 7])
        with tree.step([(branch, STAR, [-1, -1, 0, 1, 2, 3])]) as step:
            write(tree, step)
            chunk, tree.chunks[0] = tree.chunks[0], torch.zeros(3)
            with pytest.raises((ShapeError, ArgumentError)):
                step.commit([ACCEPTED])
            assert not step.is_open
        with pytest.raises((ShapeError, ArgumentError)):
            tree.match([7])
        tree.chunks[0] = chunk
        go_on(tree, resume)
        assert branch.token_ids.tolist() == [7, 7, 7, 2, 4, 6]
        check(tree, branch)


@pytest.mark.parametrize("strikes", ["before", "after"])
@pytest.mark.parametrize("resume", ["step", "match", "recover"])
def test_copies_on_a_device_are_made_once(strikes: str, resume: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with cuda.emulated(emulation().lane):
        tree = make_tree()
        branch = tree.branch()
        extend(tree, branch, [7, 7, 7])
        move = _native.cuda_move_rows

        def interrupted(*args: Any) -> None:
            if strikes == "after":
                move(*args)
            raise KeyboardInterrupt

        with tree.step([(branch, STAR, [-1, -1, 0, 1, 2, 3])]) as step:
            write(tree, step)
            monkeypatch.setattr(_native, "cuda_move_rows", interrupted)
            with pytest.raises(KeyboardInterrupt):
                step.commit([ACCEPTED])
        monkeypatch.undo()
        go_on(tree, resume)
        check(tree, branch)


@pytest.mark.parametrize("strikes", ["before", "after"])
def test_a_reduction_on_a_device_is_made_once(strikes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Condensing a branch that shares nothing copies within its own pages."""
    with cuda.emulated(emulation().lane):
        tree = make_tree()
        branch = tree.branch()
        extend(tree, branch, list(range(24)))
        keep = [i for i in range(24) if i % 5 != 1]
        copies = _native.cuda_copy_rows
        count = 0

        def interrupted(*args: Any) -> None:
            nonlocal count
            count += 1
            if count == 2 and strikes == "before":
                raise KeyboardInterrupt
            copies(*args)
            if count == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(_native, "cuda_copy_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tree.condense(branch, [keep] * tree.num_planes, digest=1)
        assert count == 2, "to a staging pool, and from there"
        monkeypatch.undo()
        tree.recover()
        for plane in range(tree.num_planes):
            keys = tree._native.keys(branch._id, plane).tolist()
            assert sorted(position for *_, position in keys) == keep
            for _, slab, slot, position in keys:
                chunk = tree.chunks[slab // tree.slabs_per_chunk]
                shown = chunk[plane, slab % tree.slabs_per_chunk, 0, slot]
                assert (shown == 101.0 * position).all()
        tree.debug_check()


def test_a_device_refuses_before_anything_changes() -> None:
    with cuda.emulated(emulation().lane):
        tree = make_tree(head_dim=32, page_tokens=16)
        branch = tree.branch()
        with tree.step([(branch, [1] * 20, None)]) as step:
            rows = torch.ones(20, HEADS, 32)
            rows[3, 1, 5] = 1e6
            ops.write_rows(rows, rows, tree.chunks, step.plan, layer=0, num_kv_heads=HEADS)
            step.commit([range(20)])
        nodes, stats = tree.nodes(branch), tree.stats()
        for by_head in (False, True):
            formats = [["int8"] * 20] * 2 if by_head else ["int8"] * 20
            with pytest.raises(ArgumentError, match="an element of a page to encode"):
                tree.quantise(branch, nodes[0][0], formats, digest=1, by_head=by_head, partial=True)
        assert (tree.nodes(branch), tree.stats()) == (nodes, stats)
        names = [None if i == 3 else "int8" for i in range(20)]
        tree.quantise(branch, nodes[0][0], names, digest=1, by_head=False, partial=True)
        tree.debug_check()
