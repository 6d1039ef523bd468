"""What a selection of keys misses of attention over all of them: for choosing a budget before trusting it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hornbeam.attend.selected import Selected
from hornbeam.attend.study import checked, plan, scale_of
from hornbeam.errors import ShapeError

__all__ = ["Recall", "missed", "recall"]

#: Rows whose scores over all keys are held at once.
ROWS_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class Recall:
    """What H query heads still see when they read some keys only; means over the rows of a head.

    Args:
        selected: what is read.
        mass: of the probability that attention over all keys gives, the part on keys that are read, float64
            `[H]`. What top-p and FlexPrefill's gamma promise.
        top_k: of the k heaviest keys of a row, where k is how many it reads, the share that it reads, float64
            `[H]`. Ties of weight go to the lowest position. 1 is the best choice of that size.
        error: the L2 norm of what the outputs are off by over that of the outputs, all rows of a head
            together, float64 `[H]`; None without values.
        shares: keys read over keys there are, float64 `[H]`.
    """

    selected: Selected
    mass: Tensor
    top_k: Tensor
    error: Tensor | None
    shares: Tensor


def recall(
    recipe: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor | None = None,
    *,
    layer: int | None = None,
    scale: float | None = None,
    page_tokens: int = 16,
) -> Recall:
    """How much of attention a recipe's selection holds, by query head, in plain torch and float32.

    Args:
        recipe: as :func:`hornbeam.attend.plan` takes it.
        q: queries `[H, N, D]`, rotated; the last N of the M positions.
        k: keys `[Hk, M, D]`, rotated; `H` is a multiple of `Hk`.
        v: values `[Hk, M, D]`; without them there is no output error.
        layer: as for :func:`hornbeam.attend.plan`.
        scale: what attention multiplies scores by; `D ** -0.5` where not given.
        page_tokens: as for :func:`hornbeam.attend.plan`.

    Raises:
        ShapeError, ArgumentError: as :func:`hornbeam.attend.plan`; or values of another shape than keys.
    """
    selected = plan(recipe, q, k, layer=layer, scale=scale, page_tokens=page_tokens)
    return missed(selected, q, k, v, scale=scale)


def missed(
    selected: Selected, q: Tensor, k: Tensor, v: Tensor | None = None, *, scale: float | None = None
) -> Recall:
    """As :func:`recall`, of a selection of one's own.

    Args:
        selected: which keys are read.
        q: queries `[H, N, D]`, those of the selection.
        k: keys `[Hk, M, D]`.
        v: values `[Hk, M, D]`; without them there is no output error.
        scale: what attention multiplies scores by; `D ** -0.5` where not given.

    Raises:
        ShapeError: the arrays are not those of the selection.
    """
    checked(q, k)
    given = (len(selected.units), selected.num_rows, selected.num_keys)
    if given != (q.shape[0], q.shape[1], k.shape[1]):
        raise ShapeError(
            f"the selection is of {given[0]} heads, {given[1]} rows and {given[2]} keys, expected those of "
            f"q {list(q.shape)} and k {list(k.shape)}"
        )
    if v is not None and v.shape != k.shape:
        raise ShapeError(f"v.shape is {list(v.shape)}, expected that of k, {list(k.shape)}")
    factor, group = scale_of(q, scale), q.shape[0] // k.shape[0]
    queries, keys = (x.detach().to("cpu", torch.float32) for x in (q, k))
    values = None if v is None else v.detach().to("cpu", torch.float32)
    rows = max(selected.num_rows, 1)
    measured = []
    for head in range(len(queries)):
        mass = recalled = wrong = whole = 0.0
        for part in selected.row_slices(ROWS_AT_ONCE):
            end = int(selected.positions[part.stop - 1]) + 1  # no row sees a key behind that
            scores = factor * (queries[head, part] @ keys[head // group, :end].T)
            is_read = selected.mask(head, part)[:, :end]
            is_after = torch.arange(end, device="cpu") > selected.positions[part, None]
            weights = scores.masked_fill(is_after, -torch.inf).softmax(dim=-1)
            mass += float((weights * is_read).sum(dtype=torch.float64))
            recalled += float(_top_k(weights.masked_fill(is_after, -1), is_read).sum())
            if values is not None:
                dense = weights @ values[head // group, :end]
                kept = torch.where(is_read, scores, -torch.inf).softmax(dim=-1)
                # A row that reads nothing gives zeros.
                sparse = torch.where(is_read, kept, 0) @ values[head // group, :end]
                wrong += float((sparse - dense).square().sum(dtype=torch.float64))
                whole += float(dense.square().sum(dtype=torch.float64))
        error = 0.0 if wrong == 0 else (wrong / whole) ** 0.5 if whole else float("inf")
        measured.append([mass / rows, recalled / rows, error])
    table = torch.tensor(measured, dtype=torch.float64, device="cpu").view(-1, 3)
    return Recall(
        selected, table[:, 0], table[:, 1], None if values is None else table[:, 2], selected.shares
    )


def _top_k(weights: Tensor, is_read: Tensor) -> Tensor:
    """Of each row's k heaviest keys the share that is read, float64 `[rows]`; k is how many are read, and 1
    where none is: nothing of nothing is missing."""
    order = weights.sort(dim=-1, descending=True, stable=True).indices
    hits = is_read.gather(1, order).cumsum(dim=1)
    count = is_read.sum(dim=1)
    found = hits.gather(1, (count - 1).clamp_min(0)[:, None])[:, 0]
    return torch.where(count == 0, 1.0, found.double() / count.clamp_min(1))
