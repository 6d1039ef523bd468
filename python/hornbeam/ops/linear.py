"""A linear layer for few rows on the CPU, bound by how fast the weight streams from memory."""

from __future__ import annotations

import sys
from functools import cache

import torch

from hornbeam import _native

__all__ = ["linear", "max_native_rows"]


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """``x @ weight.T + bias``, for any number of rows; see :func:`max_native_rows` for where it is fast.

    Products and sums are f32, rounded once to the type of ``x``. The bits of a result depend on
    its row of ``x`` and its row of ``weight`` alone: not on the other rows, nor on the number of
    threads, nor on the instruction set. Autograd does not see the call.

    Args:
        x: ``[..., K]``, contiguous, float32, bfloat16 or float16, on the CPU.
        weight: ``[N, K]``, contiguous, any of these types.
        bias: ``[N]``, of the type of ``weight``.
        out: ``[..., N]``, contiguous, of the type of ``x``; allocated if not given.

    Raises:
        ShapeError: a shape, type, layout or device differs from these.
        ArgumentError: ``out`` may not be written, or shares memory with another argument.
    """
    return _native.linear(x, weight, bias, out)


@cache
def max_native_rows(dtype: torch.dtype) -> int:
    """Rows up to which :func:`linear` beats ``torch.nn.functional.linear`` for a weight of this type
    that comes from memory rather than from a cache, as measured with AVX2, where torch has no good
    way to multiply bfloat16 and float16; 32 elsewhere (``docs/decisions/010-own-linear-for-few-rows.md``)."""
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return 32
    return 64 if dtype == torch.float32 else sys.maxsize
