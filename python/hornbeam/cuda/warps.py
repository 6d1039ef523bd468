"""Warps as the kernels read them, and the histories that penalties look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.errors import ArgumentError
from hornbeam.integers import integer_tensor

if TYPE_CHECKING:
    from hornbeam.warp import Warp

__all__ = ["SIZES", "Histories", "adjusts", "law_of", "pack_histories", "pack_laws", "pack_penalties"]

#: Bytes of what tables for the kernels hold.
SIZES = _native.cuda_sizes()

Histories = Sequence[tuple[Tensor | Sequence[int], Tensor | Sequence[int]]]


def law_of(warp: Warp) -> tuple[float, int | None, float | None, float | None]:
    """What remains of a warp after bias and penalties."""
    return warp.temperature, warp.top_k, warp.top_p, warp.min_p


def adjusts(warp: Warp) -> bool:
    """Whether the warp changes logits before the law is taken from them."""
    return bool(warp.bias) or warp.has_penalties


def pack_laws(warps: Sequence[Warp]) -> Tensor:
    """uint8 ``[len(warps), SIZES["law"]]``."""
    return _table(_native.cuda_pack_laws([law_of(warp) for warp in warps]), SIZES["law"])


def pack_penalties(warps: Sequence[Warp]) -> tuple[Tensor, Tensor]:
    """uint8 ``[len(warps), SIZES["penalties"]]`` and ``[biases, SIZES["bias"]]``."""
    penalties, bias = _native.cuda_pack_penalties(
        [
            (
                1.0 if warp.repetition_penalty is None else warp.repetition_penalty,
                warp.frequency_penalty or 0.0,
                warp.presence_penalty or 0.0,
                sorted((warp.bias or {}).items()),
            )
            for warp in warps
        ]
    )
    return _table(penalties, SIZES["penalties"]), _table(bias, SIZES["bias"])


def _table(rows: bytes, size: int) -> Tensor:
    if not rows:
        return torch.empty(0, size, dtype=torch.uint8)
    return torch.frombuffer(bytearray(rows), dtype=torch.uint8).view(-1, size)


def pack_histories(histories: Histories, vocabulary: int) -> tuple[Tensor, Tensor]:
    """All tokens int64, and where each prompt and output begins, int32 ``[2 * len(histories) + 1]``.

    Raises:
        ArgumentError: a token outside of the vocabulary.
    """
    parts = [integer_tensor(t, "history").cpu().reshape(-1) for pair in histories for t in pair]
    tokens = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
    outside = (tokens < 0) | (tokens >= vocabulary)
    if bool(outside.any()):
        raise ArgumentError(
            f"a token of the history is {int(tokens[outside][0])}, expected 0 to {vocabulary - 1}"
        )
    lengths = torch.tensor([0, *(len(part) for part in parts)])
    return tokens, lengths.cumsum(0).to(torch.int32)
