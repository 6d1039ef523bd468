"""Verdicts on a device: one buffer, read once."""

from __future__ import annotations

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.errors import LogitsError

__all__ = ["Outputs"]


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
                row, got = _native.cuda_fault(fault)
                raise LogitsError(
                    f"logits of sequence {sequence}, row {row} contain {got}, expected finite values or -inf"
                )
        counts, tokens = num_accepted[:batch].tolist(), next_token[:batch].tolist()
        rows = accepted[:batch].tolist()
        return [(path[:n], token) for path, n, token in zip(rows, counts, tokens, strict=True)]
