"""The operations that write and read pages, as torch knows them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.errors import ArgumentError
from hornbeam.ops import pages, rows
from hornbeam.ops.registered.library import Operator, nothing, unit_last
from hornbeam.ops.registered.words import plan_of

__all__ = ["OPERATORS"]

Chunks = list[Tensor]


def _write_rows(k: Tensor, v: Tensor, chunks: Chunks, plan: Tensor, layer: int, num_kv_heads: int) -> None:
    where = {"layer": layer, "num_kv_heads": num_kv_heads}
    rows.write_rows(unit_last(k), unit_last(v), chunks, plan_of(plan), **where)


def _move_rows(chunks: Chunks, moves: Any) -> None:
    rows.move_rows(chunks, moves.contiguous())


def _move_page_rows(chunks: Chunks, moves: Any) -> None:
    rows.move_page_rows(chunks, moves.contiguous())


def _move_page_rows_at_once(chunks: Chunks, moves: Any) -> None:
    rows.move_page_rows_at_once(chunks, moves.contiguous())


def _gather_rows(chunks: Chunks, counts: Any, entries: Any) -> tuple[Tensor, Tensor]:
    return rows.gather_rows(chunks, counts.contiguous(), entries.contiguous())


def _fake_gather_rows(chunks: Chunks, counts: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    shape = (entries.shape[0], chunks[0].shape[-1])
    keys, values = (torch.empty(shape, dtype=torch.float32, device="cpu") for _ in range(2))
    return keys, values


def _put_rows(chunks: Chunks, entries: Any, keys: Tensor, values: Tensor) -> None:
    rows.put_rows(chunks, entries.contiguous(), keys, values)


def _quantise_pages(chunks: Chunks, moves: Any, format: str, *, by_page: bool) -> None:
    pages.quantise_pages(chunks, moves.contiguous(), format, by_page=by_page)


def _condense_pages(chunks: Chunks, moves: Any, formats: list[str], codes: list[Any]) -> None:
    if len(formats) != len(codes):
        raise ArgumentError(f"formats are {len(formats)} for {len(codes)} tables of codes, expected one each")
    known = pages.page_formats(chunks[0])
    for name in formats:
        if name not in known:
            raise ArgumentError(f"a format is {name}, expected one of {', '.join(known)}")
    pairs = [(known[name][0], own.contiguous()) for name, own in zip(formats, codes, strict=True)]
    pages.condense_pages(chunks, moves.contiguous(), pairs)


OPERATORS = [
    Operator(
        "write_rows(Tensor k, Tensor v, Tensor(a!)[] chunks, Tensor plan, SymInt layer, SymInt num_kv_heads)"
        " -> ()",
        _write_rows,
        nothing,
        _native.registered_write_rows,
    ),
    Operator("move_rows(Tensor(a!)[] chunks, Tensor moves) -> ()", _move_rows, nothing),
    Operator("move_page_rows(Tensor(a!)[] chunks, Tensor moves) -> ()", _move_page_rows, nothing),
    Operator(
        "move_page_rows_at_once(Tensor(a!)[] chunks, Tensor moves) -> ()", _move_page_rows_at_once, nothing
    ),
    Operator(
        "gather_rows(Tensor[] chunks, Tensor counts, Tensor entries) -> (Tensor, Tensor)",
        _gather_rows,
        _fake_gather_rows,
    ),
    Operator(
        "put_rows(Tensor(a!)[] chunks, Tensor entries, Tensor keys, Tensor values) -> ()", _put_rows, nothing
    ),
    Operator(
        "quantise_pages(Tensor(a!)[] chunks, Tensor moves, str format, *, bool by_page) -> ()",
        _quantise_pages,
        nothing,
    ),
    Operator(
        "condense_pages(Tensor(a!)[] chunks, Tensor moves, str[] formats, Tensor[] codes) -> ()",
        _condense_pages,
        nothing,
    ),
]
