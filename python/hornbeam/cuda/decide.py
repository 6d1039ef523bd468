"""Sampling and verification on the device."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.cuda.device import lane, upload
from hornbeam.errors import ArgumentError, LogitsError

if TYPE_CHECKING:
    from hornbeam.warp import Warp

__all__ = ["Outputs", "verify"]

_FAULTS = {1: "NaN", 2: "+inf", 3: "-inf only"}


def _law(warp: Warp) -> tuple[float, int | None, float | None, float | None]:
    penalties = (warp.repetition_penalty, warp.frequency_penalty, warp.presence_penalty)
    if warp.bias or any(penalty is not None for penalty in penalties):
        raise ArgumentError(f"warp is {warp}, expected no bias and no penalties: the CUDA lane lacks them")
    return warp.temperature, warp.top_k, warp.top_p, warp.min_p


def _packed_laws(warps: Sequence[Warp]) -> Tensor:
    """uint8 `[len(warps), 32]`, as `Law` of cuda/include/decide.cuh lays one out."""
    data = bytearray()
    for temperature, top_k, top_p, min_p in map(_law, warps):
        greedy = temperature == 0
        scale = 1.0 if greedy else 1.0 / temperature
        mass = top_p if top_p is not None and top_p < 1 else 0.0
        data += struct.pack("<fiiidd", scale, greedy, top_k or 0, 0, mass, min_p or 0.0)
    return torch.frombuffer(data, dtype=torch.uint8).view(-1, 32)


def _host(values: Tensor | Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(values, dtype=dtype).cpu().contiguous()


class Outputs:
    """Where a verdict goes: views of one device buffer, so that one read brings everything.

    ``next_token`` int64 ``[B]``; ``num_accepted`` and ``fault_rows`` int32 ``[B]``; ``accepted`` int32
    ``[B, depth]``.
    """

    def __init__(self, batch: int, depth: int, device: torch.device) -> None:
        self.depth = depth
        self.buffer = torch.empty(batch * (4 + depth), dtype=torch.int32, device=device)
        self.next_token, self.num_accepted, self.fault_rows, self.accepted = self._parts(self.buffer)

    def _parts(self, buffer: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch = len(buffer) // (4 + self.depth)
        return (
            buffer[: 2 * batch].view(torch.int64),
            buffer[2 * batch : 3 * batch],
            buffer[3 * batch : 4 * batch],
            buffer[4 * batch :].view(batch, self.depth),
        )

    def read(self, batch: int | None = None) -> list[tuple[list[int], int]]:
        """For each of the first ``batch`` sequences the accepted rows and the next token: the one time
        that the host waits for the device.

        Raises:
            LogitsError: a row on the way of a walk is no distribution.
        """
        next_token, num_accepted, fault_rows, accepted = self._parts(self.buffer.cpu())
        for sequence, fault in enumerate(fault_rows[:batch].tolist()):
            if fault:
                got = _FAULTS[fault % 4]
                raise LogitsError(
                    f"logits of sequence {sequence}, row {fault // 4} contain {got}, "
                    "expected finite values or -inf"
                )
        counts, tokens = num_accepted[:batch].tolist(), next_token[:batch].tolist()
        rows = accepted[:batch].tolist()
        return [(path[:n], token) for path, n, token in zip(rows, counts, tokens, strict=True)]


def verify(
    draft_tokens: Tensor,
    draft_parents: Tensor,
    offsets: Tensor,
    logits: Tensor,
    *,
    warp: Warp | Sequence[Warp],
    seed: int,
    sequences: Tensor | None,
    positions: Tensor | None,
) -> tuple[Outputs, list[tuple[list[int], int]]]:
    """Greedy and coupled verification: the outputs on the device, and what was read of them.

    All rows are sampled at once, from raw logits, then every tree is walked. Trees come from the
    host, where they are checked, and go over in one transfer; the verdicts come back in one.
    """
    driver = lane()
    device = logits.device
    one, many = (warp[0] if len(warp) == 1 else None, warp) if isinstance(warp, Sequence) else (warp, ())
    law = (0.0, None, None, None) if one is None else _law(one)
    if positions is None and any(w.temperature != 0 for w in (many if one is None else [one])):
        raise ArgumentError("positions is None, expected one a sequence, since the warp samples")
    parents, begins = _host(draft_parents, torch.int32), _host(offsets, torch.int32)
    depth = _native.tree_depth(parents, begins)
    batch, num_rows = len(begins) - 1, logits.shape[0]
    host = [_host(draft_tokens, torch.int64), parents, begins]
    host += [torch.zeros(0, dtype=torch.uint8) if one is not None else _packed_laws(many)]
    given = [values for values in (sequences, positions) if values is not None]
    host += [_host(values, torch.int64) for values in given]
    tokens, parents, begins, laws, *counters = upload(host, device)
    streams = counters.pop(0) if sequences is not None else None
    places = counters.pop(0) if positions is not None else None

    sampled, faults = torch.empty((2, num_rows), dtype=torch.int32, device=device).unbind()
    _native.cuda_sample(
        driver,
        logits,
        (parents, begins),
        streams,
        places,
        law,
        laws if one is None else None,
        seed,
        sampled,
        faults,
    )
    out = Outputs(batch, depth, device)
    _native.cuda_follow(
        driver,
        tokens,
        parents,
        begins,
        sampled,
        faults,
        out.accepted,
        out.num_accepted,
        out.next_token,
        out.fault_rows,
    )
    return out, out.read()
