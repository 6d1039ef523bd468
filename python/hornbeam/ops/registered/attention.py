"""Attention, its mass, and the linear layer, as torch knows them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.ops.attention import tree_attention
from hornbeam.ops.block_sparse import block_sparse_attention
from hornbeam.ops.linear import linear
from hornbeam.ops.mass import attention_mass, mass_columns
from hornbeam.ops.registered.library import Operator, new_size, nothing, side_by_side, unit_last, written
from hornbeam.ops.registered.words import plan_of

__all__ = ["OPERATORS"]

_WHERE = "SymInt layer, SymInt num_kv_heads"
_SCORES = "float? scale=None, SymInt? window=None, float? soft_cap=None, Tensor? sinks=None"
_ONE_SUM = "bool batch_invariant=False"
_OUT = "Tensor(a!) out, Tensor(b!)? lse=None"
_BLOCKS = "float? scale=None, SymInt block_rows=128, SymInt block_keys=128"


def _tree_attention(
    q: Tensor,
    chunks: list[Tensor],
    plan: Tensor,
    layer: int,
    num_kv_heads: int,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: Tensor | None = None,
    batch_invariant: bool = False,
    out: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    return tree_attention(
        unit_last(q),
        chunks,
        plan_of(plan),
        layer=layer,
        num_kv_heads=num_kv_heads,
        scale=scale,
        window=window,
        soft_cap=soft_cap,
        sinks=None if sinks is None else sinks.contiguous(),
        batch_invariant=batch_invariant,
        out=out,
        lse=lse,
    )


def _like_q(q: Tensor, *arguments: Any, **options: Any) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _block_sparse(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, **options: Any) -> Tensor:
    q, k, v = unit_last(q), unit_last(k), unit_last(v)
    return block_sparse_attention(q, k, v, blocks.contiguous(), **options)


def _fake_block_sparse(q: Tensor, *arguments: Any, **options: Any) -> Tensor:
    heads, rows, dim = q.shape
    return q.new_empty(rows, heads, dim)


def _mass_columns(plan: Tensor, rows: Tensor) -> Tensor:
    columns = mass_columns(plan_of(plan), rows.contiguous())
    return torch.tensor(columns, dtype=torch.int64, device="cpu").view(len(columns), 3)


def _fake_mass_columns(plan: Tensor, rows: Tensor) -> Tensor:
    return torch.empty(new_size(), 3, dtype=torch.int64, device="cpu")


def _attention_mass(
    q: Tensor,
    chunks: list[Tensor],
    plan: Tensor,
    rows: Tensor,
    layer: int,
    num_kv_heads: int,
    *,
    sinks: Tensor | None = None,
    **options: Any,
) -> Tensor:
    return attention_mass(
        unit_last(q),
        chunks,
        plan_of(plan),
        rows.contiguous(),
        layer=layer,
        num_kv_heads=num_kv_heads,
        sinks=side_by_side(sinks),
        **options,
    )


def _fake_mass(
    q: Tensor,
    chunks: list[Tensor],
    plan: Tensor,
    rows: Tensor,
    layer: int,
    num_kv_heads: int,
    **options: Any,
) -> Tensor:
    return torch.empty(num_kv_heads, new_size(), dtype=torch.int64, device=q.device)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
    return linear(x.contiguous(), weight.contiguous(), side_by_side(bias), out)


def _fake_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


OPERATORS = [
    Operator(
        f"tree_attention(Tensor q, Tensor[] chunks, Tensor plan, {_WHERE}, *, {_SCORES}, {_ONE_SUM})"
        " -> Tensor",
        _tree_attention,
        _like_q,
        _native.registered_tree_attention,
    ),
    Operator(
        f"tree_attention_out(Tensor q, Tensor[] chunks, Tensor plan, {_WHERE}, *, {_SCORES}, {_ONE_SUM}, "
        "Tensor(a!) out, Tensor(b!)? lse=None) -> ()",
        written(_tree_attention),
        nothing,
        _native.registered_tree_attention_out,
    ),
    Operator(
        f"block_sparse_attention(Tensor q, Tensor k, Tensor v, Tensor blocks, *, {_BLOCKS}) -> Tensor",
        _block_sparse,
        _fake_block_sparse,
    ),
    Operator(
        f"block_sparse_attention_out(Tensor q, Tensor k, Tensor v, Tensor blocks, *, {_BLOCKS}, "
        "Tensor(a!) out, Tensor(b!)? lse=None) -> ()",
        written(_block_sparse),
        nothing,
    ),
    Operator("mass_columns(Tensor plan, Tensor rows) -> Tensor", _mass_columns, _fake_mass_columns),
    Operator(
        f"attention_mass(Tensor q, Tensor[] chunks, Tensor plan, Tensor rows, {_WHERE}, *, {_SCORES})"
        " -> Tensor",
        _attention_mass,
        _fake_mass,
    ),
    Operator(
        f"attention_mass_out(Tensor q, Tensor[] chunks, Tensor plan, Tensor rows, {_WHERE}, *, {_SCORES}, "
        "Tensor(a!) out, Tensor(b!)? seen=None, Tensor(c!)? lse=None) -> ()",
        written(_attention_mass),
        nothing,
    ),
    Operator(
        "linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor",
        _linear,
        _fake_linear,
        _native.registered_linear,
    ),
    Operator(
        "linear_out(Tensor x, Tensor weight, Tensor? bias=None, *, Tensor(a!) out) -> ()",
        written(_linear),
        nothing,
        _native.registered_linear_out,
    ),
]
