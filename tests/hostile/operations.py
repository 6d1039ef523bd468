"""Every operation of ``hornbeam.ops`` with good arguments, from which hostile ones are made one at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hornbeam import ops
from hornbeam._native import Plan

ROWS, HEADS, KV_HEADS, DIM, SLOTS, VOCABULARY = 3, 4, 2, 32, 8, 12


@dataclass
class Operation:
    """One operation.

    Attributes:
        make: fresh arguments by name, the same ones at every call.
        call: runs it on them; returns what it returns.
        inputs: names of arrays that are read.
        outputs: names of arrays that are written.
        pool: whether ``chunks`` is an argument.
    """

    make: Callable[[], dict[str, Any]]
    call: Callable[..., Any]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    pool: bool = False


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def chunks() -> list[torch.Tensor]:
    return [random(2 * KV_HEADS, 4, 2, SLOTS, DIM, seed=seed) for seed in (10, 11)]


def int32(*values: Any, width: int | None = None) -> np.ndarray:
    table = np.array(values, np.int32)
    return table.reshape(-1, width) if width else table


def plan_arrays() -> dict[str, np.ndarray]:
    """Two prefixes of 8 and 5 keys, one of them by head, and a chain of three rows."""
    by_head = [[page, 5 << 16, 8, -1] for page in (4, 20, 9, 13)]
    return {
        "entries": int32([1, 8 << 16, 0, -1], *by_head, [5, 3 << 16, 13, -1], width=4),
        "positions": int32(),
        "head_ranges": int32([1, 2], [2, 3], [3, 4], [4, 5], width=2),
        "reads": int32(
            [0, 1, 0, 3, 8, 0, -1, 0], [0, 4, 1, 3, 5, 2, -1, 0], [5, 6, 0, 3, 3, 1, -1, 0], width=8
        ),
        "row_positions": int32(13, 14, 15),
        "row_end": int32(3, 3, 3),
        "row_slots": int32([5, 0], [5, 1], [5, 2], width=2),
    }


def plan() -> Plan:
    return Plan(**plan_arrays())


LAYER = {"layer": 1, "num_kv_heads": KV_HEADS}


def _attention() -> dict[str, Any]:
    q, out = random(ROWS, HEADS, DIM), torch.zeros(ROWS, HEADS, DIM)
    lse = torch.zeros(ROWS, HEADS)
    return {
        "q": q,
        "chunks": chunks(),
        "plan": plan(),
        "sinks": random(HEADS, seed=1),
        "out": out,
        "lse": lse,
    }


def _mass() -> dict[str, Any]:
    sums, seen = torch.zeros(KV_HEADS, 16, dtype=torch.int64), torch.zeros(KV_HEADS, 16, dtype=torch.int32)
    return _attention() | {"rows": torch.arange(ROWS, dtype=torch.int32), "out": sums, "seen": seen}


def _rows() -> dict[str, Any]:
    k, v = random(ROWS, KV_HEADS, DIM, seed=2), random(ROWS, KV_HEADS, DIM, seed=3)
    return {"k": k, "v": v, "chunks": chunks(), "plan": plan()}


def _moves() -> dict[str, Any]:
    """Of slabs, both chunks' among them."""
    return {"chunks": chunks(), "moves": int32([1, 2, 3, 0], [7, 1, 3, 1], [3, 0, 2, 5])}


def _page_moves() -> dict[str, Any]:
    return {"chunks": chunks(), "moves": int32([1, 2, 20, 0], [23, 1, 3, 1], [20, 0, 2, 5])}


def _codes() -> dict[str, Any]:
    return {"chunks": chunks(), "moves": int32(*([17, slot, 6, slot] for slot in range(5)))}


def _gather() -> dict[str, Any]:
    table = [[page, slot, slot] for page in (0, 5, 8, 30) for slot in (1, 4)]
    return {"chunks": chunks(), "counts": int32(2, 2, 2, 2), "entries": int32(*table)}


def _put() -> dict[str, Any]:
    return _gather() | {"keys": random(8, DIM, seed=4), "values": random(8, DIM, seed=5)}


def _linear() -> dict[str, Any]:
    x, weight = random(ROWS, 16), random(5, 16, seed=1)
    return {"x": x, "weight": weight, "bias": random(5, seed=2), "out": torch.zeros(ROWS, 5)}


def _verify() -> dict[str, Any]:
    tokens = torch.tensor([3, 7, 1, 4], dtype=torch.int64)
    return {
        "draft_tokens": tokens,
        "draft_parents": torch.tensor([-1, 0, -1, 0], dtype=torch.int32),
        "offsets": torch.tensor([0, 2, 4], dtype=torch.int32),
        "target_logits": random(6, VOCABULARY),
        "draft_logits": random(6, VOCABULARY, seed=1),
        "sequences": torch.tensor([4, 9]),
        "positions": torch.tensor([11, 3]),
    }


def _sample() -> dict[str, Any]:
    return {
        "logits": random(2, VOCABULARY),
        "sequences": torch.tensor([4, 9]),
        "positions": torch.tensor([11, 3]),
    }


def _block_sparse() -> dict[str, Any]:
    """Five rows behind four, in blocks of four."""
    return {
        "q": random(HEADS, 5, DIM),
        "k": random(KV_HEADS, 9, DIM, seed=1),
        "v": random(KV_HEADS, 9, DIM, seed=2),
        "blocks": torch.tensor([[True, False, True], [True, True, False]]).repeat(HEADS, 1, 1),
        "out": torch.zeros(5, HEADS, DIM),
        "lse": torch.zeros(5, HEADS),
    }


def _topk() -> dict[str, Any]:
    return {
        "scores": random(ROWS, 16),
        "k": torch.tensor([3, 0, 2]),
        "hint": random(ROWS, seed=1),
        "values": torch.zeros(ROWS, 3),
        "indices": torch.zeros(ROWS, 3, dtype=torch.int64),
    }


def _call_topk(scores: Any, k: Any, hint: Any, values: Any, indices: Any) -> Any:
    return ops.topk(scores, k, hint=hint, out=(values, indices))


def _condense(chunks: Any, moves: Any, codes: Any) -> None:
    ops.condense_pages(chunks, moves, [(2, codes)])


OPERATIONS = {
    "tree_attention": Operation(
        _attention, lambda **a: ops.tree_attention(**a, **LAYER), ("q", "sinks"), ("out", "lse"), pool=True
    ),
    "attention_mass": Operation(
        _mass,
        lambda **a: ops.attention_mass(**a, **LAYER),
        ("q", "sinks", "rows"),
        ("out", "seen", "lse"),
        pool=True,
    ),
    "mass_columns": Operation(
        lambda: {"plan": plan(), "rows": torch.arange(ROWS)}, lambda **a: ops.mass_columns(**a), ("rows",)
    ),
    "write_rows": Operation(_rows, lambda **a: ops.write_rows(**a, **LAYER), ("k", "v"), pool=True),
    "move_rows": Operation(_moves, lambda **a: ops.move_rows(**a), ("moves",), pool=True),
    "move_page_rows": Operation(_page_moves, lambda **a: ops.move_page_rows(**a), ("moves",), pool=True),
    "move_page_rows_at_once": Operation(
        _page_moves, lambda **a: ops.move_page_rows_at_once(**a), ("moves",), pool=True
    ),
    "gather_rows": Operation(_gather, lambda **a: ops.gather_rows(**a), ("counts", "entries"), pool=True),
    "quantise_pages": Operation(
        _codes, lambda **a: ops.quantise_pages(**a, format="int4", by_page=True), ("moves",), pool=True
    ),
    "condense_pages": Operation(
        lambda: _codes() | {"codes": int32(*([2, slot, 25, slot] for slot in range(3)))},
        _condense,
        ("moves", "codes"),
        pool=True,
    ),
    "linear": Operation(_linear, lambda **a: ops.linear(**a), ("x", "weight", "bias"), ("out",)),
    "verify": Operation(
        _verify,
        lambda **a: ops.verify(**a, rule="without_replacement", seed=5),
        tuple(_verify()),
    ),
    "block_sparse_attention": Operation(
        _block_sparse,
        lambda **a: ops.block_sparse_attention(**a, block_rows=4, block_keys=4),
        ("q", "k", "v", "blocks"),
        ("out", "lse"),
    ),
    "topk": Operation(_topk, _call_topk, ("scores", "hint"), ("values", "indices")),
    "topp": Operation(
        lambda: {"weights": random(24).abs(), "offsets": torch.tensor([0, 9, 24])},
        lambda **a: ops.topp(**a, p=0.5),
        ("weights", "offsets"),
    ),
    "product_key_topk": Operation(
        lambda: {"scores_a": random(ROWS, 5), "scores_b": random(ROWS, 7, seed=1)},
        lambda **a: ops.product_key_topk(**a, k=4),
        ("scores_a", "scores_b"),
    ),
    "block_topk": Operation(
        lambda: {"scores": random(ROWS, 16)}, lambda **a: ops.block_topk(**a, block=4, k=2), ("scores",)
    ),
    "sample": Operation(_sample, lambda **a: ops.sample(**a, seed=5), tuple(_sample())),
}


def bits(value: Any) -> list[bytes]:
    """All that a call returned or wrote, bit by bit."""
    if value is None:
        return []
    if isinstance(value, torch.Tensor):
        dense = value.detach().resolve_conj().resolve_neg().contiguous().as_subclass(torch.Tensor)
        return [dense.view(torch.uint8).numpy().tobytes() if dense.dim() else dense.numpy().tobytes()]
    if isinstance(value, np.ndarray):
        return [np.ascontiguousarray(value, value.dtype.newbyteorder("=")).tobytes()]
    if isinstance(value, list | tuple):
        return [part for item in value for part in bits(item)]
    return [repr(value).encode()]
