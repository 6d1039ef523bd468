"""The greatest numbers of rows, exactly: of scores, of shares of mass, of pairs of key tables, of blocks.

One order holds for all: NaN is the greatest number, as in torch, -0.0 equals 0.0, and of equal numbers the
one with the lowest index comes first. So every call has one answer, on every machine and with any number of
threads.
"""

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.integers import integer_tensor, whole_number

#: Where results lie, whatever torch's default device is.
CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

__all__ = ["block_topk", "product_key_topk", "topk", "topp"]


def topk(
    scores: Tensor,
    k: int | Tensor,
    *,
    offsets: Tensor | None = None,
    sorted: bool = False,
    out: tuple[Tensor, Tensor] | None = None,
    hint: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The `k` greatest numbers of every row and their indices; as ``torch.topk``, but with one answer where
    numbers are equal, and several times as fast on a CPU.

    NaN is greater than every other number, as in torch, and equal to NaN; -0.0 equals 0.0; of equal numbers
    the one with the lowest index is chosen.

    Args:
        scores: `[..., n]`, float32, bfloat16 or float16 on the CPU; copied if it is not contiguous. With
            ``offsets`` `[n]`, all rows one after the other.
        k: how many numbers of each row, at most its length; or an integer tensor `[...]` with a number for
            each row. Of a ragged row that has fewer, all come.
        offsets: integers `[rows + 1]`: row `i` is ``scores[offsets[i]:offsets[i + 1]]``.
        sorted: from the greatest down, equal numbers by index. Else a row's numbers come by ascending index,
            which is faster.
        out: a pair of contiguous tensors to write to, as those that are returned.
        hint: float32 `[...]` or, with ``offsets``, `[rows]`: what the k-th greatest number of each row may
            be, such as that of a step ago, the least of its values. A good guess saves time; no guess changes
            the answer.

    Returns:
        Values, of the dtype of ``scores``, and int64 indices within the row, both `[..., w]` or, with
        ``offsets``, `[rows, w]`, where `w` is the greatest `k`. A row that gives fewer has -inf and index -1
        behind them.

    Raises:
        ShapeError: a shape, dtype, layout or device differs from these.
        ArgumentError: `k` is negative or above the length of a row, offsets do not ascend from 0 to `n`, or
            ``out`` may not be written (see ``docs/arrays.md``).
    """
    if offsets is None and hint is None:
        # Short calls are measured in microseconds, and most of them need nothing of what follows.
        found = _native.plain_topk(scores, k, sorted, out)
        if found is not None:
            return found
    rows, shape, starts = _rows(scores, "scores", offsets)
    counts = None
    if isinstance(k, Tensor) and k.dim() > 0:
        if k.shape != shape:
            raise ShapeError(
                f"k is a tensor of shape {tuple(k.shape)}, expected an integer or shape {tuple(shape)}"
            )
        counts = integer_tensor(k, "k").contiguous()
        width = max(0, int(counts.max())) if counts.numel() else 0
    else:
        width = whole_number(k, "k")
    # Before room is made for numbers that no row has.
    if starts is None and rows.dim() > 0 and width > rows.shape[-1]:
        raise ArgumentError(f"k is {width}, expected 0 to {rows.shape[-1]}, the length of a row")
    if hint is not None:
        hint = _strided(hint, "hint")
    values, indices = out if out is not None else _outputs(shape, width, rows.dtype)
    if out is not None and values.shape[-1:] != (width,):
        raise ShapeError(f"out has values of shape {tuple(values.shape)}, expected {(*shape, width)}")
    _native.topk(rows, width, counts, starts, sorted, hint, values, indices)
    return values, indices


def topp(
    weights: Tensor,
    p: float,
    *,
    floor: int = 0,
    cap: int | None = None,
    offsets: Tensor | None = None,
    sorted: bool = False,
) -> tuple[Tensor, Tensor]:
    """The fewest numbers of every row that hold the share `p` of its sum, and their indices: the greatest
    ones, of equal numbers those with the lowest index.

    Sums are sums of integers: a weight counts in steps of a power of two that is at most 2^-40 of the
    greatest of its row, so that every machine and every order of rows decides alike. What is smaller than a
    step counts as nothing: `p = 1` leaves it out.

    Args:
        weights: `[..., n]`, finite numbers of at least 0, as ``scores`` of :func:`topk`. They need not sum to
            1.
        p: 0 to 1, as the double that it is.
        floor: at least so many numbers of a row come, or all of a shorter one.
        cap: at most so many; no limit where it is None.
        offsets: as in :func:`topk`.
        sorted: as in :func:`topk`.

    Returns:
        Values and indices as those of :func:`topk`, as wide as the longest answer; shorter ones have 0 and
        index -1 behind them.

    Raises:
        ShapeError: as :func:`topk`.
        ArgumentError: `p` is no share, ``cap`` is below ``floor``, a weight is negative, infinite or NaN.
    """
    rows, shape, starts = _rows(weights, "weights", offsets)
    counts = torch.empty(shape, dtype=torch.int64, device=CPU)
    most = None if cap is None else whole_number(cap, "cap")
    _native.topp_counts(rows, starts, p, whole_number(floor, "floor"), most, counts)
    width = int(counts.max()) if counts.numel() else 0
    values, indices = _outputs(shape, width, rows.dtype)
    _native.topk(rows, width, counts, starts, sorted, None, values, indices)
    return values.masked_fill_(indices < 0, 0), indices


def product_key_topk(
    scores_a: Tensor,
    scores_b: Tensor,
    k: int,
    *,
    core: Tensor | None = None,
    sorted: bool = False,
) -> tuple[Tensor, Tensor]:
    """The `k` pairs of keys of two tables with the greatest scores, exactly, and those scores.

    A pair scores the sum of what its keys score (product keys, Lample et al. 2019, arXiv 1907.05242,
    section 3), in float32. The greatest pairs are among those of each table's `k` greatest, so about ``k *
    log(k)`` sums are looked at; pairs that rounding makes equal to the last one are looked for in the whole
    tables. Of equal sums the pair with the lowest index comes first.

    With ``core`` a pair scores ``scores_a[:, i] @ core @ scores_b[:, j]``: Tucker-decomposed retrieval
    (UltraMem, Huang et al. 2024, arXiv 2411.12364; the formula is that of the authors' code). UltraMem takes
    the greatest of each table by the core's first singular vectors and may miss some. No rule of that kind is
    exact, so here *all* pairs are scored: the same formula, the true answer, and time in the product of the
    tables' sizes. For several cores (UltraMem's heads of scores) give their sum, by which it selects.

    Args:
        scores_a: `[..., a]`, float32, bfloat16 or float16 on the CPU, finite or -inf; with ``core``
            `[..., rank, a]`, finite.
        scores_b: `[..., b]`, or `[..., rank, b]`.
        k: how many pairs, at most ``a * b``.
        core: `[rank, rank]` for all rows, or `[..., rank, rank]`; finite.
        sorted: from the greatest down, equal scores by index. Else pairs come by ascending index.

    Returns:
        float32 scores and int64 indices ``i * b + j``, both `[..., k]`.

    Raises:
        ShapeError: a shape, dtype or device differs from these.
        ArgumentError: `k` is out of range, or a score is not as said above.
    """
    k = whole_number(k, "k")
    last = 1 if core is None else 2
    scores_a, scores_b = _strided(scores_a, "scores_a"), _strided(scores_b, "scores_b")
    for name, scores in (("scores_a", scores_a), ("scores_b", scores_b)):
        if scores.dim() < last or scores.dtype not in DTYPES:
            raise ShapeError(
                f"{name} is {scores.dtype} of shape {tuple(scores.shape)}, expected float32, bfloat16 or "
                f"float16 of shape "
                f"{'[..., n]' if core is None else '[..., rank, n]'}"
            )
    shape = scores_a.shape[:-last]
    if scores_b.shape[:-last] != shape or (core is not None and scores_a.shape[-2] != scores_b.shape[-2]):
        raise ShapeError(
            f"scores_b has shape {tuple(scores_b.shape)}, expected that of scores_a but for the last size, "
            f"{tuple(scores_a.shape)}"
        )
    pairs = scores_a.shape[-1] * scores_b.shape[-1]
    if k > pairs:
        raise ArgumentError(f"k is {k}, expected 0 to {pairs}, the pairs of a row")
    count = shape.numel()
    a, b = (scores.float().reshape(count, scores.shape[-last:].numel()) for scores in (scores_a, scores_b))
    square = None
    if core is not None:
        rank = scores_a.shape[-2]
        if core.shape != (rank, rank) and core.shape != (*shape, rank, rank):
            raise ShapeError(
                f"core is a tensor of shape {tuple(core.shape)}, expected {(rank, rank)} or "
                f"{(*shape, rank, rank)}"
            )
        square = core.float().reshape(core.shape[:-2].numel(), rank, rank)
    values, indices = _outputs(torch.Size([count]), k, torch.float32)
    _native.product_key_topk(a, b, k, square, sorted, values, indices)
    return values.view(*shape, k), indices.view(*shape, k)


def block_topk(
    scores: Tensor,
    block: int,
    k: int,
    *,
    offsets: Tensor | None = None,
    sorted: bool = False,
) -> tuple[Tensor, Tensor]:
    """The `k` blocks of every row with the greatest maximum: those maxima and the indices of the blocks.

    Block `i` of a row is its numbers from ``i * block`` on; the last one may be short. The maximum of a block
    with a NaN is NaN, which is greater than every number.

    Args:
        scores: as in :func:`topk`.
        block: numbers of a block.
        k: how many blocks, at most those of a row; of a ragged row that has fewer, all come.
        offsets: as in :func:`topk`.
        sorted: as in :func:`topk`.

    Returns:
        Maxima and int64 indices of blocks, both `[..., k]` or, with ``offsets``, `[rows, k]`, padded as those
        of :func:`topk`.

    Raises:
        ShapeError: as :func:`topk`.
        ArgumentError: ``block`` is less than 1, or `k` is out of range.
    """
    rows, shape, starts = _rows(scores, "scores", offsets)
    if rows.dim() == 0:
        raise ShapeError("scores is a tensor without dimensions, expected shape [..., n]")
    block, k = whole_number(block, "block", 1), whole_number(k, "k")
    blocks = -(-rows.shape[-1] // block)
    if starts is None and k > blocks:
        raise ArgumentError(f"k is {k}, expected 0 to {blocks}, the blocks of a row")
    values, indices = _outputs(shape, k, rows.dtype)
    _native.block_topk(rows, block, k, starts, sorted, values, indices)
    return values, indices


def _rows(scores: Tensor, name: str, offsets: Tensor | None) -> tuple[Tensor, torch.Size, Tensor | None]:
    """The rows, contiguous; the shape of what has one number a row; and the offsets."""
    rows = _strided(scores, name)
    if offsets is None:
        # Of a tensor without dimensions the native operation says so.
        return rows, rows.shape[:-1], None
    starts = integer_tensor(offsets, "offsets").contiguous()
    return rows, torch.Size([max(0, starts.numel() - 1)]), starts


def _strided(values: Tensor, name: str) -> Tensor:
    """An argument as a contiguous tensor."""
    if not isinstance(values, Tensor):
        raise ArgumentError(f"{name} is a {type(values).__name__}, expected a tensor")
    if values.layout != torch.strided:
        raise ArgumentError(f"{name} is {values.layout}, expected a strided tensor")
    return values if values.is_contiguous() else values.contiguous()


def _outputs(shape: torch.Size, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Values and indices `[*shape, width]`, yet to be written."""
    values = torch.empty(*shape, width, dtype=dtype, device=CPU)
    return values, torch.empty(*shape, width, dtype=torch.int64, device=CPU)
