"""Changes that fail change nothing: budgets that do not fit, memory that cannot be had, values that no code
holds. Random sequences of operations against a model that holds every key and value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hornbeam import ops
from hornbeam.cache.tree import Branch, PrefixTree
from hornbeam.errors import ArgumentError, OutOfPages

LAYERS, HEADS, HEAD_DIM, PAGE = 1, 2, 32, 4
SIZES: dict[str, Any] = {
    "num_layers": LAYERS,
    "num_kv_heads": HEADS,
    "head_dim": HEAD_DIM,
    "page_tokens": PAGE,
}
SLAB = PrefixTree(**SIZES).slab_bytes


def extend(tree: PrefixTree, branch: Branch, tokens: list[int], rows: torch.Tensor) -> None:
    """Commits tokens with the given keys and values, ``[2, tokens, heads, head_dim]``."""
    with tree.step([(branch, tokens, None)]) as step:
        ops.write_rows(rows[0], rows[1], tree.chunks, step.plan, layer=0, num_kv_heads=HEADS)
        step.commit([range(len(tokens))])


def shown(tree: PrefixTree, branch: Branch) -> list[tuple[list[int], torch.Tensor]]:
    """Of each plane positions, ascending, and keys and values ``[2, n, head_dim]``, decoded."""
    table = tree.key_table(branch)
    if len(table) == 0:
        return [([], torch.empty(2, 0, HEAD_DIM)) for _ in table.counts]
    rows = torch.stack(table.gather(tree.chunks))
    parts = zip(table.split(table.positions), rows.split(table.counts.tolist(), dim=1), strict=True)
    return [(positions.tolist(), part) for positions, part in parts]


@dataclass
class Modelled:
    """A branch, and what it has to show."""

    branch: Branch
    tokens: list[int]
    planes: list[tuple[list[int], torch.Tensor]]

    def check(self, tree: PrefixTree) -> None:
        assert self.branch.token_ids.tolist() == self.tokens
        for (positions, rows), (got_positions, got) in zip(
            self.planes, shown(tree, self.branch), strict=True
        ):
            assert got_positions == positions
            assert torch.equal(got, rows)


class World:
    """A tree under a budget, and its model."""

    def __init__(self, slabs: int, per_chunk: int) -> None:
        self.tree = PrefixTree(**SIZES, max_bytes=slabs * SLAB, slabs_per_chunk=min(per_chunk, slabs))
        self.branches: list[Modelled] = []
        self.count = 0
        self.failures = 0

    def counts(self) -> dict[str, int]:
        """What a failure may not change. The pool may have grown."""
        return {name: n for name, n in self.tree.stats().items() if name not in ("slabs", "free_slabs")}

    def attempt(self, change: Callable[[], None]) -> bool:
        """Runs a change; where it fails everything is as before."""
        before = self.counts()
        try:
            change()
            done = True
        except (OutOfPages, ArgumentError):
            self.failures += 1
            after = self.counts()
            # A run of tokens that only one other continues is joined with it first: what is shown stays.
            assert after.pop("nodes") <= before.pop("nodes")
            assert after == before
            done = False
        self.tree.debug_check()
        return done

    def check(self) -> None:
        for modelled in self.branches:
            modelled.check(self.tree)

    def run(self, kind: str, a: int, b: int) -> None:
        if not self.branches or kind == "open":
            if len(self.branches) < 5:
                empty = torch.empty(2, 0, HEAD_DIM)
                self.branches.append(Modelled(self.tree.branch(), [], [([], empty)] * self.tree.num_planes))
            return
        modelled = self.branches[a % len(self.branches)]
        random = np.random.default_rng([a, b, self.count])
        self.count += 1
        if kind == "extend":
            self._extend(modelled, 1 + b % 9, random)
        elif kind == "fork" and len(self.branches) < 5:
            copy = Modelled(modelled.branch.fork(), list(modelled.tokens), list(modelled.planes))
            self.branches.append(copy)
        elif kind == "release":
            modelled.branch.release(keep=b % 2 == 0)
            self.branches.remove(modelled)
        elif kind == "compact":
            self._compact(modelled, b, random)
        elif kind == "condense":
            self._condense(modelled, b, random)
        elif kind == "quantise":
            self._quantise(modelled, b, random)
        elif kind == "trim":
            self.tree.trim()
        self.check()

    def _extend(self, modelled: Modelled, count: int, random: np.random.Generator) -> None:
        tokens = random.integers(0, 3, count).tolist()
        rows = torch.from_numpy(random.uniform(-1, 1, (2, count, HEADS, HEAD_DIM)).astype(np.float32))
        if count == 9:
            rows[0, 0, 0, 0] = 1e6  # no code holds it
        if self.attempt(lambda: extend(self.tree, modelled.branch, tokens, rows)):
            begin = len(modelled.tokens)
            modelled.tokens = modelled.tokens + tokens
            modelled.planes = [
                (
                    positions + list(range(begin, begin + count)),
                    torch.cat([old, rows[:, :, plane % HEADS]], dim=1),
                )
                for plane, (positions, old) in enumerate(modelled.planes)
            ]

    def _compact(self, modelled: Modelled, b: int, random: np.random.Generator) -> None:
        nodes = self.tree.nodes(modelled.branch)
        if not nodes:
            return
        node, start, count, _, digest = nodes[b % len(nodes)]
        if digest:
            return  # its keys may lie in any order
        planes = self.tree.num_planes
        by_head = b % 3 != 0
        lists = [np.flatnonzero(random.random(count) < 0.6) for _ in range(planes if by_head else 1)]
        keep = [own.tolist() for own in lists]

        def change() -> None:
            self.tree.compact(modelled.branch, node, keep if by_head else keep[0], digest=1, by_head=by_head)

        if self.attempt(change):
            kept = [set((own + start).tolist()) for own in (lists if by_head else lists * planes)]
            modelled.planes = [
                _selected(plane, [p in own or not start <= p < start + count for p in plane[0]])
                for plane, own in zip(modelled.planes, kept, strict=True)
            ]

    def _condense(self, modelled: Modelled, b: int, random: np.random.Generator) -> None:
        chosen = [random.random(len(positions)) < 0.7 for positions, _ in modelled.planes]
        if b % 2:
            sizes = {len(own) for own in chosen}
            if len(sizes) == 1:
                chosen = [chosen[0]] * len(chosen)
        keep = [np.flatnonzero(own).tolist() for own in chosen]
        formats = [["int8"] * len(own) for own in keep] if b % 5 == 0 else None

        def change() -> None:
            self.tree.condense(modelled.branch, keep, digest=1, formats=formats)

        if self.attempt(change):
            self._accept(
                modelled, [_selected(plane, own) for plane, own in zip(modelled.planes, chosen, strict=True)]
            )

    def _quantise(self, modelled: Modelled, b: int, random: np.random.Generator) -> None:
        nodes = self.tree.nodes(modelled.branch)
        if not nodes:
            return
        node, _, count, keys, digest = nodes[b % len(nodes)]
        if digest or keys != count:
            return
        planes = self.tree.num_planes
        by_head = b % 2 == 0
        names = [
            [("int8", "int4", None)[i] for i in random.integers(0, 3, count)]
            for _ in range(planes if by_head else 1)
        ]

        def change() -> None:
            formats = names if by_head else names[0]
            self.tree.quantise(modelled.branch, node, formats, digest=1, by_head=by_head, partial=b % 3 == 0)

        if self.attempt(change):
            self._accept(modelled, modelled.planes)

    def _accept(self, modelled: Modelled, planes: list[tuple[list[int], torch.Tensor]]) -> None:
        """What has been encoded shows the same keys, nearly."""
        found = shown(self.tree, modelled.branch)
        for (positions, rows), (got_positions, got) in zip(planes, found, strict=True):
            assert got_positions == positions
            ordinary = rows.abs() <= 1
            assert torch.equal(got[~ordinary], rows[~ordinary])
            # Half a step of four bits over a range of 2, with offsets and steps in float16.
            assert bool(((got - rows)[ordinary].abs() <= 0.075).all())
        modelled.planes = found


def _selected(plane: tuple[list[int], torch.Tensor], own: Any) -> tuple[list[int], torch.Tensor]:
    kept = [i for i, stays in enumerate(own) if stays]
    return [plane[0][i] for i in kept], plane[1][:, kept]


KINDS = ["open", "extend", "extend", "extend", "fork", "release", "compact", "condense", "quantise", "trim"]
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=40
)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS, st.integers(2, 14), st.integers(1, 4))
@example([("open", 0, 0), ("extend", 0, 8), ("quantise", 0, 0)], 14, 2)
@example([("open", 0, 0), ("extend", 0, 8), ("extend", 0, 6), ("compact", 0, 1), ("open", 0, 0)], 4, 4)
def test_a_change_happens_whole_or_not_at_all(
    operations: list[tuple[str, int, int]], slabs: int, per_chunk: int
) -> None:
    world = World(slabs, per_chunk)
    for kind, a, b in operations:
        world.run(kind, a, b)
    for modelled in world.branches:
        modelled.branch.release(keep=False)
    world.tree.clear()
    stats = world.tree.stats()
    assert (stats["nodes"], stats["branches"], stats["free_slabs"]) == (0, 0, stats["slabs"])


@settings(max_examples=100, deadline=None)
@given(OPERATIONS, st.integers(0, 6), st.sampled_from([MemoryError, RuntimeError, torch.OutOfMemoryError]))
@example([("open", 0, 0), ("extend", 0, 8), ("extend", 0, 8), ("condense", 0, 0)], 1, RuntimeError)
def test_memory_that_cannot_be_had_changes_nothing(
    operations: list[tuple[str, int, int]], fail_at: int, error: type[Exception]
) -> None:
    world, zeros, calls = World(64, 1), torch.zeros, 0

    def failing(*args: Any, **options: Any) -> torch.Tensor:
        nonlocal calls
        if args == (world.tree.layout,):
            calls += 1
            if calls > fail_at:
                raise error("no memory here")
        return zeros(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "zeros", failing)
        for kind, a, b in operations:
            world.run(kind, a, b)
    assert len(world.tree.chunks) <= fail_at
    assert world.failures > 0 or calls <= fail_at
    world.run("open", 0, 0)
    world.run("extend", 0, 3)


def test_the_bytes_that_cannot_be_had_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = PrefixTree(**SIZES, slabs_per_chunk=2)
    branch = tree.branch()

    def failing(*args: Any, **options: Any) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "zeros", failing)
    with pytest.raises(OutOfPages, match=f"{4 * SLAB} bytes of pages cannot be allocated on cpu: Default"):
        tree.step([(branch, [0] * 13, None)])
    monkeypatch.undo()
    assert (tree.chunks, tree.num_bytes, tree.peak_bytes) == ([], 0, 0)
    tree.debug_check()
    tree.step([(branch, [0] * 13, None)]).rollback()


@pytest.mark.parametrize("way", ["compact", "condense", "quantise"])
def test_a_version_by_head_that_does_not_fit_is_refused(way: str) -> None:
    tree = PrefixTree(**SIZES, max_bytes=3 * SLAB, slabs_per_chunk=3)
    rows = torch.from_numpy(np.random.default_rng(3).uniform(-1, 1, (2, 8, HEADS, HEAD_DIM))).float()
    a = tree.branch()
    extend(tree, a, [1, 2, 3, 4], rows[:, :4])
    tree.compact(a, tree.nodes(a)[0][0], [[0], []], digest=1, by_head=True)
    b = tree.branch()
    extend(tree, b, list(range(8)), rows)
    other = b.fork()
    before, stats = shown(tree, b), tree.stats()
    assert (stats["free_slabs"], stats["broken_slabs"]) == (0, 1), "a page is free, where three are needed"
    keep = [[0, 1, 2, 3], list(range(8))]
    node = tree.nodes(b)[0][0]
    changes = {
        "compact": lambda: tree.compact(b, node, keep, digest=1, by_head=True),
        "condense": lambda: tree.condense(b, keep, digest=1),
        "quantise": lambda: tree.quantise(
            b, node, [["int8"] * 8, [None] * 8], digest=1, by_head=True, partial=True
        ),
    }
    with pytest.raises(OutOfPages):
        changes[way]()
    assert tree.stats() == stats
    for branch in (b, other):
        for (positions, own), (old_positions, old) in zip(shown(tree, branch), before, strict=True):
            assert positions == old_positions
            assert torch.equal(own, old)
    a.release()  # what is inexact is not cached: its slab is whole again
    tree.debug_check()


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("value", [65536.0, float("inf"), float("nan")])
@pytest.mark.parametrize("where", ["keys", "values"])
def test_what_no_code_holds_is_refused_before_anything_changes(
    by_head: bool, value: float, where: str
) -> None:
    tree = PrefixTree(**SIZES)
    rows = torch.from_numpy(np.random.default_rng(5).uniform(-1, 1, (2, 30, HEADS, HEAD_DIM))).float()
    rows[int(where == "values"), 17, 1, 3] = value
    branch = tree.branch()
    extend(tree, branch, list(range(30)), rows)
    nodes, stats = tree.nodes(branch), tree.stats()
    formats = [["int8"] * 30] * 2 if by_head else ["int8"] * 30
    with pytest.raises(ArgumentError, match="an element of a page to encode is"):
        tree.quantise(branch, nodes[0][0], formats, digest=1, by_head=by_head, partial=True)
    with pytest.raises(ArgumentError, match="an element of a page to encode is"):
        tree.condense(branch, [range(30)] * 2, digest=1, formats=[["int8"] * 30] * 2)
    assert (tree.nodes(branch), tree.stats()) == (nodes, stats)
    got = tree.key_table(branch).gather(tree.chunks)
    want = rows[:, :, :].permute(0, 2, 1, 3).reshape(2, -1, HEAD_DIM)
    assert torch.equal(torch.stack(got).nan_to_num(7.0, 8.0), want.nan_to_num(7.0, 8.0))
    # The key stays plain where it is not asked for.
    formats = [["int8"] * 16 + [None] * 14] * 2 if by_head else ["int8"] * 16 + [None] * 14
    tree.quantise(branch, nodes[0][0], formats, digest=1, by_head=by_head, partial=True)
    tree.debug_check()
