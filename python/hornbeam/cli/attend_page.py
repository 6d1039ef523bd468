"""What a recipe of sparse attention reads of a text: a table, and a page with a map of each head."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from hornbeam.attend import Seen, missed, observe, plan
from hornbeam.errors import ArgumentError
from hornbeam.pages import render

__all__ = ["Head", "Layer", "Study", "page", "studied", "table"]

#: Cells of a side of a map at most: coarser than blocks only where a text has more of them.
MOST_CELLS = 96


@dataclass(frozen=True)
class Head:
    """What a query head reads, as shares from 0 to 1, and the map of it."""

    pattern: str
    share: float
    mass: float
    top_k: float
    cells: bytes
    """A byte a cell, row after row up to the diagonal: 255 where all that a row may read is read."""


@dataclass(frozen=True)
class Layer:
    """One layer: its heads, or why it is read as ever."""

    layer: int
    heads: tuple[Head, ...]
    why: str | None = None


@dataclass(frozen=True)
class Study:
    """A text of ``tokens`` tokens, by layer; a cell of a map is ``side`` tokens a side."""

    tokens: int
    side: int
    layers: tuple[Layer, ...]


def studied(
    lm: Any,
    token_ids: Sequence[int],
    recipe: Any,
    layers: Collection[int] | None = None,
    tell: Callable[[int], None] = lambda layer: None,
) -> Study:
    """Reads a text densely, and measures what the recipe would have read of it in each layer.

    Args:
        lm: a :class:`hornbeam.LM`.
        token_ids: the text.
        recipe: as :func:`hornbeam.attend.plan` takes it.
        layers: only these; all by default.
        tell: called with each layer that has been measured.

    Raises:
        ArgumentError: a layer that the model has not, no tokens, or no layer that attends plainly.
    """
    found: dict[int, Layer] = {}
    sides = set[int]()

    def see(layer: int, seen: Seen) -> None:
        q, k, _, scale = seen
        selected = plan(recipe, q, k, layer=layer, scale=scale, page_tokens=lm.tree.page_tokens)
        measured = missed(selected, q, k, scale=scale)
        cells, side = selected.cells(MOST_CELLS)
        sides.add(side)
        columns = zip(selected.patterns, measured.shares, measured.mass, measured.top_k, cells, strict=True)
        heads = [
            Head(pattern, float(share), float(mass), float(top_k), _packed(own))
            for pattern, share, mass, top_k, own in columns
        ]
        found[layer] = Layer(layer, tuple(heads))
        tell(layer)

    for layer, why in observe(lm, token_ids, see, layers=layers).items():
        found[layer] = Layer(layer, (), why)
    if not sides:
        reasons = ", ".join(sorted({str(layer.why) for layer in found.values()}))
        raise ArgumentError(f"no layer can be studied: they attend with {reasons}")
    if len(sides) > 1:
        raise ArgumentError(f"the recipe has blocks of several sizes, maps of {sorted(sides)} tokens a cell")
    return Study(len(token_ids), sides.pop(), tuple(found[layer] for layer in sorted(found)))


def table(study: Study) -> list[str]:
    """Lines of a table: a line a head, and the means at the end.

    Args:
        study: what was measured.
    """
    heads = [head for layer in study.layers for head in layer.heads]
    width = max([len("pattern"), *(len(head.pattern) for head in heads)])

    def line(*cells: Any) -> str:
        first, second, pattern, *shares = cells
        return f"{first:>5} {second:>4}  {pattern:<{width}}" + "".join(f" {share:>8}" for share in shares)

    def shown(*shares: float) -> list[str]:
        return [f"{100 * share:.1f} %" for share in shares]

    lines = [line("layer", "head", "pattern", "read", "covered", "top-k")]
    for layer in study.layers:
        if layer.why is not None:
            lines.append(f"{layer.layer:>5}       read as ever: {layer.why}")
        for index, head in enumerate(layer.heads):
            lines.append(line(layer.layer, index, head.pattern, *shown(head.share, head.mass, head.top_k)))
    means = [fmean(getattr(head, name) for head in heads) for name in ("share", "mass", "top_k")]
    return [*lines, line("all", len(heads), "mean", *shown(*means))]


def page(study: Study, pieces: list[str], settings: dict[str, str], title: str) -> str:
    """The HTML of a study.

    Args:
        study: what was measured.
        pieces: the texts of the tokens.
        settings: what the page names beside the title: the model, the recipe and its arguments.
        title: of the text.
    """
    data = {
        "title": title,
        "settings": settings,
        "pieces": pieces,
        "tokens": study.tokens,
        "side": study.side,
        "num_heads": max(len(layer.heads) for layer in study.layers),
        "layers": [
            {"layer": layer.layer, "why": layer.why, "heads": [_shown(head) for head in layer.heads]}
            for layer in study.layers
        ],
    }
    return render("attend", data)


def _shown(head: Head) -> dict[str, Any]:
    figures = {"share": head.share, "mass": head.mass, "top_k": head.top_k}
    return {"pattern": head.pattern, "map": base64.b64encode(head.cells).decode(), **figures}


def _packed(cells: Tensor) -> bytes:
    """The cells of a map `[C, C]` up to the diagonal."""
    row, key = torch.tril_indices(*cells.shape)
    return (cells[row, key] * 255).round().to(torch.uint8).numpy().tobytes()
