"""Plans, warps and histories as tensors: what an operation that torch knows can be given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.warp import Warp

__all__ = ["histories_of", "plan_of", "plan_words", "warp_words", "warps_of"]

#: The numbers of a warp, in the order of its columns; tokens of its bias and what they get stand behind them.
COLUMNS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)


def plan_words(plan: _native.Plan) -> Tensor:
    """A plan as ``torch.ops.hornbeam`` takes it: int32 `[num_words]` on the CPU, whatever device it is for.

    Args:
        plan: a step's plan, or one that was made of arrays.
    """
    return torch.from_numpy(plan.words)


def warp_words(warp: Warp | Sequence[Warp]) -> Tensor:
    """Warps as ``torch.ops.hornbeam`` takes them: float64 `[num_warps, width]` on the CPU, NaN for what was
    not given.

    Args:
        warp: one, or one a sequence.
    """
    rows = []
    for one in [warp] if isinstance(warp, Warp) else warp:
        numbers = [math.nan if (x := getattr(one, name)) is None else float(x) for name in COLUMNS]
        rows.append(numbers + [float(x) for pair in (one.bias or {}).items() for x in pair])
    width = max(map(len, rows), default=len(COLUMNS))
    padded = [row + [math.nan] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.float64, device="cpu").view(len(rows), width)


def plan_of(words: Tensor) -> _native.Plan:
    """The plan of these words. All layers of a step ask for the same one, so the last ones are kept, by what
    they say: words that have changed are another plan.

    Raises:
        ShapeError: words that are no plan.
        ArgumentError: numbers of it that are out of range.
    """
    plan = _native.kept_plan(words)
    if plan is None:
        data = _bytes(words, "plan", torch.int32, 1)
        plan = _native.Plan.from_words(np.frombuffer(data, np.int32))
    return plan


def warps_of(words: Tensor | None) -> list[Warp]:
    """The warps of these words; None is the plain one.

    Raises:
        ShapeError: words that are no warps.
        ArgumentError: numbers of them that are out of range.
    """
    if words is None:
        return [_PLAIN]
    data = _bytes(words, "warp", torch.float64, 2)
    width = words.shape[1]
    if width < len(COLUMNS) or (width - len(COLUMNS)) % 2:
        raise ShapeError(
            f"warp has {width} columns, expected {len(COLUMNS)} and two for each token of the bias"
        )
    return [_warp(data[begin : begin + 8 * width]) for begin in range(0, len(data), 8 * width)]


def histories_of(ids: Tensor | None, offsets: Tensor | None) -> list[tuple[Tensor, Tensor]] | None:
    """Per sequence its prompt ids and its output ids.

    Args:
        ids: of all sequences, a sequence's prompt before its output.
        offsets: `[2 * B + 1]`, where each prompt and each output begins.

    Raises:
        ArgumentError: one without the other, or offsets that do not ascend from 0 to the end of ``ids``.
        ShapeError: not two parts a sequence.
    """
    if ids is None and offsets is None:
        return None
    if ids is None or offsets is None:
        raise ArgumentError("history and history_offsets are given one without the other, expected both")
    if offsets.dim() != 1 or len(offsets) % 2 == 0:
        raise ShapeError(f"history_offsets has shape {list(offsets.shape)}, expected [2 * B + 1]")
    ends = offsets.tolist()
    if ends[0] != 0 or ends[-1] != len(ids) or sorted(ends) != ends:
        raise ArgumentError(f"history_offsets do not ascend from 0 to {len(ids)}")
    parts = [ids[begin:end] for begin, end in pairwise(ends)]
    return list(zip(parts[::2], parts[1::2], strict=True))


_PLAIN = Warp()


def _bytes(words: Tensor, name: str, dtype: torch.dtype, dims: int) -> bytes:
    if words.dtype != dtype or words.dim() != dims or not words.is_cpu:
        raise ShapeError(
            f"{name} is {words.dtype} of shape {list(words.shape)} on {words.device}, expected {dtype} with "
            f"{dims} dimensions on the CPU"
        )
    words = words.detach() if words.requires_grad else words
    return words.numpy().tobytes()


@lru_cache(maxsize=64)
def _warp(data: bytes) -> Warp:
    numbers = np.frombuffer(data, np.float64).tolist()
    options: dict[str, Any] = {
        name: None if math.isnan(x) else x for name, x in zip(COLUMNS, numbers, strict=False)
    }
    if options["top_k"] is not None:
        options["top_k"] = _whole(options["top_k"], "top_k")
    pairs = iter(numbers[len(COLUMNS) :])
    bias = {
        _whole(token, "a token of the bias"): x
        for token, x in zip(pairs, pairs, strict=True)
        if not math.isnan(token)
    }
    return Warp(**options, bias=bias or None)


def _whole(number: float, name: str) -> int:
    if not number.is_integer():
        raise ArgumentError(f"{name} is {number}, expected an integer")
    return int(number)
