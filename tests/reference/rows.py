"""Rows into pages, written with plain indexing from the definition of a page."""

import numpy as np
from torch import Tensor


def write_rows(k: Tensor, v: Tensor, chunks: list[Tensor], slots: np.ndarray, layer: int) -> None:
    """Row ``i`` goes to (slab, slot) ``slots[i]`` on the planes of `layer`."""
    heads, size = k.shape[1], chunks[0].shape[1]
    for row, (slab, slot) in enumerate(slots.tolist()):
        page = chunks[slab // size][layer * heads : (layer + 1) * heads, slab % size]
        page[:, 0, slot] = k[row].to(page.dtype)
        page[:, 1, slot] = v[row].to(page.dtype)


def move_rows(chunks: list[Tensor], moves: np.ndarray) -> None:
    """One after the other, on all planes, keys and values."""
    size = chunks[0].shape[1]
    for slab, slot, to_slab, to_slot in moves.tolist():
        chunks[to_slab // size][:, to_slab % size, :, to_slot] = chunks[slab // size][
            :, slab % size, :, slot
        ].clone()


def move_page_rows(chunks: list[Tensor], moves: np.ndarray) -> None:
    """One after the other, on single pages, numbered chunk by chunk in memory order."""
    pages = chunks[0].shape[0] * chunks[0].shape[1]
    flat = [chunk.view(pages, *chunk.shape[2:]) for chunk in chunks]
    for page, slot, to, to_slot in moves.tolist():
        flat[to // pages][to % pages, :, to_slot] = flat[page // pages][page % pages, :, slot].clone()
