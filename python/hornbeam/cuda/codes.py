"""Pages in codes, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.cuda.device import lane, upload
from hornbeam.cuda.rows import Made, addresses_of, num_places
from hornbeam.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["condense_pages", "quantise_pages"]


def _runs(table: NDArray[np.int32]) -> NDArray[np.int32]:
    """Where the moves of each page begin, and the end: a run of moves to one page is that page."""
    begins = np.flatnonzero(np.append(True, table[1:, 2] != table[:-1, 2]))
    return np.append(begins, len(table)).astype(np.int32)


def _checked(chunks: list[Tensor], moves: NDArray, tokens: int, *, by_page: bool) -> NDArray[np.int32]:
    """The moves into pages that hold so many ``tokens``."""
    table = np.ascontiguousarray(moves, dtype=np.int32)
    runs = _runs(table)
    slots = np.arange(len(table)) - np.repeat(runs[:-1], np.diff(runs))
    places = num_places(chunks, by_page=by_page)
    outside = ((table[:, (0, 2)] < 0) | (table[:, (0, 2)] >= places)).any(axis=1)
    outside |= (table[:, 1] < 0) | (table[:, 1] >= chunks[0].shape[3])
    outside |= (table[:, 3] != slots) | (slots >= tokens)
    if outside.any():
        raise ArgumentError(
            f"moves is {table[outside][0].tolist()}, "
            f"expected plain slots of the pool to slots 0 to {tokens - 1} of a page"
        )
    return table


def _words(chunk: Tensor, number: int) -> Tensor:
    return torch.tensor(_native.cuda_format_words(chunk, number), dtype=torch.int32)


def _refuse(fault: Tensor) -> None:
    if bool(fault.cpu()):
        raise ArgumentError("an element of a page to encode is NaN or too large, expected at most 65504")


def quantise_pages(chunks: list[Tensor], moves: NDArray, number: int, tokens: int, *, by_page: bool) -> None:
    """See :func:`hornbeam.ops.quantise_pages`: the same bytes. ``tokens`` fit a page of format ``number``.

    The host waits once, to learn whether every element could be encoded; pages of which one could not are
    not written.

    Args:
        number: of the format, see :func:`hornbeam.ops.page_formats`.
        tokens: that fit a page of it.
    """
    driver, chunk = lane(), chunks[0]
    table = _checked(chunks, moves, tokens, by_page=by_page)
    addresses, there, runs, layout, fault = upload(
        [
            addresses_of(chunks),
            torch.from_numpy(table),
            torch.from_numpy(_runs(table)),
            _words(chunk, number),
            torch.zeros(1, dtype=torch.int32),
        ],
        chunk.device,
    )
    both = addresses, addresses
    _native.cuda_encode_pages(driver, both, there, runs, layout, fault, chunk, by_page)
    _refuse(fault)


def condense_pages(
    chunks: list[Tensor],
    moves: NDArray,
    codes: list[tuple[int, int, NDArray]],
    made: Made | None = None,
) -> None:
    """See :func:`hornbeam.ops.condense_pages`: the same bytes. ``codes`` have (number of a format, tokens of
    its pages, moves).

    Everything goes to a staging pool, which holds what is written and no more, and from there to its pages.
    With codes the host waits once in between, and refuses elements that cannot be encoded before anything of
    the pool has changed. The launch that writes there tells the tree of ``made`` that its copies of that
    number were made.

    Args:
        codes: (number of a format, tokens of its pages, moves) each.
        made: a tree and the number of its copies, if it is to be told.
    """
    driver, chunk = lane(), chunks[0]
    page_tokens, places = chunk.shape[3], num_places(chunks, by_page=True)
    plain = np.ascontiguousarray(moves, dtype=np.int32).reshape(-1, 4)
    outside = ((plain < 0) | (plain >= [places, page_tokens] * 2)).any(axis=1)
    if outside.any():
        raise ArgumentError(f"moves is {plain[outside][0].tolist()}, expected slots of the pool")
    staged, back, parts = 0, [], [addresses_of(chunks), torch.zeros(1, dtype=torch.int32)]
    for number, tokens, given in codes:
        table = _checked(chunks, given, tokens, by_page=True)
        runs = _runs(table)
        pages = np.arange(staged, staged + len(runs) - 1, dtype=np.int32)
        back.append(_whole_pages(pages, table[runs[:-1], 2], page_tokens))
        table = table.copy()
        table[:, 2] = np.repeat(pages, np.diff(runs))
        parts += [torch.from_numpy(table), torch.from_numpy(runs), _words(chunk, number)]
        staged += len(pages)
    page, slot = np.divmod(np.arange(len(plain)), page_tokens)
    stage = np.stack([staged + page, slot], axis=1).astype(np.int32)
    staged += -(-len(plain) // page_tokens)
    back.append(np.concatenate([stage, plain[:, 2:]], axis=1))
    parts.append(torch.from_numpy(np.concatenate([plain[:, :2], stage], axis=1)))
    parts.append(torch.from_numpy(np.concatenate(back)))

    pool = torch.empty((staged, *chunk.shape[2:]), dtype=chunk.dtype, device=chunk.device)
    chunk_bytes = chunk.numel() * chunk.element_size()
    pages_of_chunk = chunk.shape[0] * chunk.shape[1]
    parts.append(pool.data_ptr() + chunk_bytes * torch.arange(-(-staged // pages_of_chunk)))
    addresses, fault, *there, into, out_of, stages = upload(parts, chunk.device)
    for table_there, runs_there, layout in zip(there[::3], there[1::3], there[2::3], strict=True):
        _native.cuda_encode_pages(
            driver, (addresses, stages), table_there, runs_there, layout, fault, chunk, True
        )
    _native.cuda_copy_rows(driver, (addresses, stages), into, chunk)
    if codes:
        _refuse(fault)
    _native.cuda_copy_rows(driver, (stages, addresses), out_of, chunk, made)


def _whole_pages(pages: NDArray[np.int32], to: NDArray[np.int32], page_tokens: int) -> NDArray[np.int32]:
    """Moves of all slots of pages, whatever their format: its bytes are those of so many plain slots."""
    slots = np.tile(np.arange(page_tokens, dtype=np.int32), len(pages))
    return np.stack([np.repeat(pages, page_tokens), slots, np.repeat(to, page_tokens), slots], axis=1)
