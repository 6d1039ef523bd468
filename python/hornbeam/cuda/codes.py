"""Pages in codes, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.cuda.device import lane, upload
from hornbeam.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["quantise_pages"]


def quantise_pages(chunks: list[Tensor], moves: NDArray, number: int, tokens: int, *, by_page: bool) -> None:
    """See :func:`hornbeam.ops.quantise_pages`: the same bytes. ``tokens`` fit a page of format ``number``.

    The host waits once, to learn whether every element could be encoded; pages of which one could not are
    not written.
    """
    driver, chunk = lane(), chunks[0]
    table = np.ascontiguousarray(moves, dtype=np.int32)
    # A run of moves to one page is that page.
    begins = np.flatnonzero(np.append(True, table[1:, 2] != table[:-1, 2]))
    runs = np.append(begins, len(table)).astype(np.int32)
    slots = np.arange(len(table)) - np.repeat(begins, np.diff(runs))
    places = len(chunks) * chunk.shape[1] * (chunk.shape[0] if by_page else 1)
    outside = ((table[:, (0, 2)] < 0) | (table[:, (0, 2)] >= places)).any(axis=1)
    outside |= (table[:, 1] < 0) | (table[:, 1] >= chunk.shape[3])
    outside |= (table[:, 3] != slots) | (slots >= tokens)
    if outside.any():
        raise ArgumentError(
            f"moves is {table[outside][0].tolist()}, "
            f"expected plain slots of the pool to slots 0 to {tokens - 1} of a page"
        )
    addresses, table_there, runs_there, layout, fault = upload(
        [
            torch.tensor([part.data_ptr() for part in chunks], dtype=torch.int64),
            torch.from_numpy(table),
            torch.from_numpy(runs),
            torch.tensor(_native.cuda_format_words(chunk, number), dtype=torch.int32),
            torch.zeros(1, dtype=torch.int32),
        ],
        chunk.device,
    )
    _native.cuda_encode_pages(driver, addresses, table_there, runs_there, layout, fault, chunk, by_page)
    if bool(fault.cpu()):
        raise ArgumentError("an element of a page to encode is NaN or too large, expected at most 65504")
