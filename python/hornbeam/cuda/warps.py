"""Warps as the kernels read them, and the histories that penalties look at."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.integers import integer_tensor

if TYPE_CHECKING:
    from hornbeam.warp import Warp

__all__ = ["Histories", "adjusts", "law_of", "pack_histories", "pack_laws", "pack_penalties"]

Histories = Sequence[tuple[Tensor | Sequence[int], Tensor | Sequence[int]]]


def law_of(warp: Warp) -> tuple[float, int | None, float | None, float | None]:
    """What remains of a warp after bias and penalties."""
    return warp.temperature, warp.top_k, warp.top_p, warp.min_p


def adjusts(warp: Warp) -> bool:
    """Whether the warp changes logits before the law is taken from them."""
    return bool(warp.bias) or warp.has_penalties


def pack_laws(warps: Sequence[Warp]) -> Tensor:
    """uint8 ``[len(warps), 32]``, as ``Law`` of cuda/include/law.cuh lays one out."""
    data = bytearray()
    for temperature, top_k, top_p, min_p in map(law_of, warps):
        greedy = temperature == 0
        scale = 1.0 if greedy else 1.0 / temperature
        mass = top_p if top_p is not None and top_p < 1 else 0.0
        most = min(top_k or 0, (1 << 31) - 1)
        data += struct.pack("<fiiidd", scale, greedy, most, 0, mass, min_p or 0.0)
    return torch.frombuffer(data, dtype=torch.uint8).view(-1, 32)


def pack_penalties(warps: Sequence[Warp]) -> tuple[Tensor, Tensor]:
    """uint8 ``[len(warps), 24]`` and ``[biases, 8]``, as adjust.cuh lays them out."""
    data, bias = bytearray(), bytearray()
    for warp in warps:
        begin = len(bias) // 8
        for token, value in sorted((warp.bias or {}).items()):
            bias += struct.pack("<If", token, value)
        penalties = (
            1.0 if warp.repetition_penalty is None else warp.repetition_penalty,
            warp.frequency_penalty or 0.0,
            warp.presence_penalty or 0.0,
        )
        data += struct.pack("<fffiii", *penalties, begin, len(bias) // 8, 0)
    if not bias:
        return torch.frombuffer(data, dtype=torch.uint8).view(-1, 24), torch.empty(0, 8, dtype=torch.uint8)
    both = [torch.frombuffer(part, dtype=torch.uint8) for part in (data, bias)]
    return both[0].view(-1, 24), both[1].view(-1, 8)


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
