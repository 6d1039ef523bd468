"""One row of attention over pages in codes against the same keys in bfloat16 pages.

Keys and values are random; 40 % of the tokens, by a random ranking a kv head, have 2 bits and the others
4, as ZipCache has it. Seconds are of the attention operation alone, bytes those of the pages that it reads.

    hornbeam bench attention_quantised [--quick]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import hornbeam as hb
from hornbeam import ops
from hornbeam.bench import harness

KV_HEADS = 8
#: (query heads a kv head, elements of a head).
SHAPES = {"group 4, head 128": (4, 128), "group 3, head 64": (3, 64)}


def filled(tokens: int, head_dim: int) -> tuple[hb.PrefixTree, Any, Any]:
    """A tree of one layer, and two branches over the same tokens."""
    tree = hb.PrefixTree(num_layers=1, num_kv_heads=KV_HEADS, head_dim=head_dim, dtype=torch.bfloat16)
    branch = tree.branch()
    k, v = torch.randn(2, tokens, KV_HEADS, head_dim).bfloat16()
    with tree.step([(branch, [0] * tokens, None)]) as step:
        ops.write_rows(k, v, tree.chunks, step.plan, layer=0, num_kv_heads=KV_HEADS)
        step.commit([range(tokens)])
    return tree, branch, branch.fork()


def mixed(tokens: int, random: np.random.Generator) -> list[list[str]]:
    """For each kv head, 4 bits, or 2 for the lowest two fifths of a random ranking."""
    names = np.array(["zip_cache2", "zip_cache4"])
    return [
        names[(random.permutation(tokens) >= tokens * 2 // 5).astype(int)].tolist() for _ in range(KV_HEADS)
    ]


def page_bytes(tree: hb.PrefixTree, branch: Any) -> int:
    """Bytes of the pages that a branch shows, over all planes."""
    size = tree.slab_bytes // tree.num_planes
    planes = [tree._native.keys(branch._id, plane)[:, 1] for plane in range(tree.num_planes)]
    return size * sum(len(np.unique(pages)) for pages in planes)


def case(tokens: int, group: int, head_dim: int, rounds: int) -> dict[str, Any]:
    tree, plain, coded = filled(tokens, head_dim)
    formats = mixed(tokens, np.random.default_rng(0))
    tree.quantise(coded, tree.nodes(coded)[0][0], formats, digest=1, by_head=True, partial=True)
    q = torch.randn(1, KV_HEADS * group, head_dim).bfloat16()
    k = torch.randn(1, KV_HEADS, head_dim).bfloat16()
    out = {name: torch.empty(1, KV_HEADS * group, head_dim) for name in ("plain", "coded")}

    def call(branch: Any, to: Tensor) -> list[float]:
        with tree.step([(branch, [0], None)]) as step:
            ops.write_rows(k, k, tree.chunks, step.plan, layer=0, num_kv_heads=KV_HEADS)

            def attend() -> None:
                ops.tree_attention(q, tree.chunks, step.plan, layer=0, num_kv_heads=KV_HEADS, out=to)

            return harness.alternate({"attend": attend}, alternations=5)["attend"]

    # A step is open for one branch at a time, so the calls alternate in runs of five.
    seconds: dict[str, list[float]] = {"plain": [], "coded": []}
    for _ in range(rounds):
        for name, branch in (("coded", coded), ("plain", plain)):
            seconds[name].append(float(np.median(call(branch, out[name]))))
    error = (out["coded"] - out["plain"]).norm() / out["plain"].norm()
    times = harness.ratio(seconds["coded"], seconds["plain"])
    return {
        "time": times,
        "time_share": 1 / times.median,
        "bytes_share": page_bytes(tree, coded) / page_bytes(tree, plain),
        "relative_error": float(error),
    }


def run(quick: bool = False) -> dict[str, Any]:
    """Ratios by shape and number of keys; ``time`` is how many times as fast pages in codes are."""
    lengths, rounds = ([4096], 3) if quick else ([4096, 32768], 9)
    results: dict[str, Any] = {}
    for name, (group, head_dim) in SHAPES.items():
        for tokens in lengths:
            row = case(tokens, group, head_dim, rounds)
            results[f"{name}, {tokens} keys"] = row
            shares = f"{row['time_share']:.2f} of the time, {row['bytes_share']:.3f} of the bytes"
            print(f"{name}, {tokens} keys: {shares}")
    return results
