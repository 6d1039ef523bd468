"""The prefix tree: fork, append and commit, match; against what a contiguous cache has to do.

``DynamicCache`` copies on a fork (``batch_select_indices`` of one row twice, as beam search does)
and crops on a rollback; the tree changes handles. The cache's size is that of a small model (4
layers, 2 heads of 64, float32), which favours the cache: its copy grows with the model, ours does
not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from hornbeam.cache.tree import Branch, PrefixTree

ALTERNATIONS = 9


def microseconds(call: Callable[[], Any], number: int) -> float:
    """Mean of `number` calls."""
    begin = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - begin) / number * 1e6


def alternate(calls: dict[str, tuple[Callable[[], Any], int]], rounds: int) -> dict[str, list[float]]:
    """Each call in turn, `rounds` times after one round of warming up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, (call, number) in calls.items():
            spent = microseconds(call, number)
            if round_:
                times[name].append(spent)
    return times


def make_tree() -> PrefixTree:
    return PrefixTree(num_layers=4, num_kv_heads=2, head_dim=64)


def extend(tree: PrefixTree, branch: Branch, tokens: list[int]) -> None:
    with tree.step([(branch, tokens, None)]) as step:
        step.commit([range(len(tokens))])


def at_length(tree: PrefixTree, length: int) -> Branch:
    branch = tree.branch()
    extend(tree, branch, list(range(length)))
    return branch


def append(length: int, rows: int, fraction: int = 1) -> Callable[[], Any]:
    """A step of `rows` rows at about `length` tokens; a `fraction`-th of them is committed."""
    tree = make_tree()
    branch, tokens = at_length(tree, length), list(range(rows))
    accepted = list(range(rows // fraction))

    def call() -> None:
        with tree.step([(branch, tokens, None)]) as step:
            step.commit([accepted])

    return call


def rollback(length: int, rows: int) -> Callable[[], Any]:
    tree = make_tree()
    branch, tokens = at_length(tree, length), list(range(rows))

    def call() -> None:
        tree.step([(branch, tokens, None)]).rollback()

    return call


def match(length: int, as_tensor: bool) -> Callable[[], Any]:
    tree = make_tree()
    at_length(tree, length).release()
    tokens: Any = torch.arange(length) if as_tensor else list(range(length))
    assert tree.match(tokens).length == length
    return lambda: tree.match(tokens)


def cache_of(length: int) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(4):
        cache.update(torch.randn(1, 2, length, 64), torch.randn(1, 2, length, 64), layer)
    return cache


def cache_fork(length: int) -> Callable[[], Any]:
    cache, both = cache_of(length), torch.tensor([0, 0])

    def call() -> None:
        cache.batch_select_indices(both)
        # Back to one row, without a copy, for the next call.
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:1], layer.values[:1]

    return call


def cache_append_and_crop(length: int, rows: int) -> Callable[[], Any]:
    cache = cache_of(length)
    k, v = torch.randn(2, 1, 2, rows, 64)

    def call() -> None:
        for layer in range(4):
            cache.update(k, v, layer)
        cache.crop(-rows)

    return call


def run(quick: bool = False) -> dict[str, Any]:
    """Medians in microseconds over alternations, and the ratios cache / tree."""
    long_tree, short_tree = make_tree(), make_tree()
    long, short = at_length(long_tree, 32_768), at_length(short_tree, 16)
    number = 200 if quick else 2000
    rounds = 7 if quick else ALTERNATIONS
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        "fork at 16": (short.fork, number),
        "fork at 32768": (long.fork, number),
        "cache fork at 32768": (cache_fork(32_768), 3),
        "append 1 at 1024": (append(1024, 1), number // 10),
        "append 8 at 1024": (append(1024, 8), number // 10),
        "append 8, keep 2, at 1024": (append(1024, 8, 4), number // 10),
        "append 1 at 32768": (append(32_768, 1), number // 10),
        "rollback 8 at 32768": (rollback(32_768, 8), number // 10),
        "cache append 8 and crop at 32768": (cache_append_and_crop(32_768, 8), 3),
        "match 1000, list": (match(1000, False), number // 10),
        "match 1000, tensor": (match(1000, True), number // 10),
        "match 30000, list": (match(30_000, False), number // 20),
        "match 30000, tensor": (match(30_000, True), number // 20),
    }
    times = alternate(calls, rounds)

    def ratio(theirs: str, ours: str) -> float:
        return statistics.median(t / o for t, o in zip(times[theirs], times[ours], strict=True))

    return {
        "unit": "us",
        "alternations": rounds,
        "medians": {name: round(statistics.median(values), 3) for name, values in times.items()},
        "fastest": {name: round(min(values), 3) for name, values in times.items()},
        "ratios": {
            "fork, 32768 over 16 tokens": ratio("fork at 32768", "fork at 16"),
            "fork, cache over tree": ratio("cache fork at 32768", "fork at 32768"),
            "rollback, cache over tree": ratio("cache append 8 and crop at 32768", "rollback 8 at 32768"),
        },
    }
