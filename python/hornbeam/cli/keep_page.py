"""A page that shows what each layer and head kept of a text: one self-contained HTML file."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hornbeam.pages import render

__all__ = ["Kept", "kept_by", "page"]


@dataclass(frozen=True)
class Kept:
    """What a recipe keeps of one text: ``planes[layer][head]`` are positions, ascending."""

    token_ids: list[int]
    planes: list[list[NDArray[np.int32]]]
    kv_bytes_before: int
    kv_bytes: int


def kept_by(lm: Any, token_ids: list[int], recipe: Any) -> Kept:
    """Runs the prompt through the model and the recipe over its cache; writes nothing."""
    from hornbeam.engine.options import Options

    [request] = lm.engine.submit_all([token_ids], Options.greedy(1, recipe), releases=True)
    keeper = request.keeper
    assert keeper is not None
    keeper.record = {}
    generation = request.result()
    heads = lm.tree.num_kv_heads
    everything = [np.arange(len(token_ids), dtype=np.int32)] * lm.tree.num_planes
    planes = keeper.record.get(request.index, everything)
    stats = generation.stats
    return Kept(
        token_ids,
        [planes[begin : begin + heads] for begin in range(0, len(planes), heads)],
        stats.kv_bytes_before,
        stats.kv_bytes,
    )


def page(kept: Kept, pieces: list[str], settings: dict[str, str], title: str) -> str:
    """The HTML of what was kept.

    Args:
        kept: of which text, and what.
        pieces: the texts of its tokens.
        settings: what the page names beside the title: the model, the recipe and its budget.
        title: of the text.
    """
    count, planes = len(kept.token_ids), [positions for layer in kept.planes for positions in layer]
    sizes = [len(positions) / max(count, 1) for positions in planes]
    total = sum(_mask(positions, count).astype(int) for positions in planes) if count else np.zeros(1, int)
    data = {
        "title": title,
        "settings": settings,
        "pieces": pieces,
        "masks": [[_packed(positions, count) for positions in layer] for layer in kept.planes],
        # The ranges that occur: shares of the text that heads kept, heads that kept a token.
        "cells": [min(sizes, default=0.0), max(sizes, default=0.0)],
        "tokens": [int(np.min(total)), int(np.max(total))],
        "kv_bytes_before": kept.kv_bytes_before,
        "kv_bytes": kept.kv_bytes,
    }
    return render("keep", data)


def _mask(positions: NDArray[np.int32], count: int) -> NDArray[np.bool_]:
    mask = np.zeros(count, bool)
    mask[positions] = True
    return mask


def _packed(positions: NDArray[np.int32], count: int) -> str:
    """A bit a token, the lowest of a byte first, in base64."""
    return base64.b64encode(np.packbits(_mask(positions, count), bitorder="little").tobytes()).decode()
