"""A linear layer for few rows on the CPU, bound by how fast the weight streams from memory."""

from __future__ import annotations

import torch

from hornbeam import _native

__all__ = ["linear", "max_native_rows", "use_native"]


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """``x @ weight.T + bias``, for any number of rows, fast for up to about thirty.

    Products and sums are f32, rounded once to the type of ``x``. The bits of a result depend on
    its row of ``x`` and its row of ``weight`` alone: not on the other rows, nor on the number of
    threads, nor on the instruction set. Autograd does not see the call.

    :param x: ``[..., K]``, contiguous, float32, bfloat16 or float16, on the CPU.
    :param weight: ``[N, K]``, contiguous, any of these types.
    :param bias: ``[N]``, of the type of ``weight``.
    :param out: ``[..., N]``, contiguous, of the type of ``x``; allocated if not given.
    :raises ShapeError: if a shape, type, layout or device differs from these.
    """
    return _native.linear(x, weight, bias, out)


def max_native_rows(outputs: int, inputs: int, dtype: torch.dtype) -> int:
    """Rows up to which :func:`linear` is expected to beat ``torch.nn.functional.linear`` for a
    ``[outputs, inputs]`` weight that comes from memory rather than from a cache."""
    return 32


def use_native(rows: int, outputs: int, inputs: int, dtype: torch.dtype) -> bool:
    """Whether :func:`linear` is expected to beat torch: ``0 < rows <= max_native_rows(...)``."""
    return 0 < rows <= max_native_rows(outputs, inputs, dtype)
