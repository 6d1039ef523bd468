"""Codes of 2, 4 or 8 bits, with an offset and a step for every block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.errors import ArgumentError

__all__ = ["Quantised", "encode"]


@dataclass(frozen=True)
class Quantised:
    """A matrix `[N, C]` in codes.

    Args:
        bits: of a code.
        tokens: of a block.
        channels: of a block.
        num_channels: C.
        codes: uint8 `[N, ceil(C * bits / 8)]`, the lowest channel in the lowest bits.
        params: float32 `[token blocks, channel blocks, 2]` of (least element, step).
        channel_scale: float32 `[C]`, or None.
    """

    bits: int
    tokens: int
    channels: int
    num_channels: int
    codes: Tensor
    params: Tensor
    channel_scale: Tensor | None

    @property
    def num_bytes(self) -> int:
        """Bytes of codes, parameters and factors."""
        parts = [self.codes, self.params] + ([] if self.channel_scale is None else [self.channel_scale])
        return sum(part.numel() * part.element_size() for part in parts)

    def steps(self) -> Tensor:
        """The step of every element, `[N, C]`: decoding errs by at most half of it."""
        step = self.params[..., 1].repeat_interleave(self.tokens, 0).repeat_interleave(self.channels, 1)
        step = step[: self.codes.shape[0], : self.num_channels]
        return step if self.channel_scale is None else step * self.channel_scale

    def decode(self) -> Tensor:
        """Float32 `[N, C]`."""
        out = torch.empty(self.codes.shape[0], self.num_channels, dtype=torch.float32, device="cpu")
        _native.dequantise(
            self.codes, self.params, self.bits, self.tokens, self.channels, out, self.channel_scale
        )
        return out


def encode(
    x: Tensor,
    bits: int,
    *,
    tokens: int | None = 1,
    channels: int | None = None,
    channel_separable: bool = False,
) -> Quantised:
    """Encodes `x [N, C]` in blocks of ``tokens`` by ``channels``, where None stands for all.

    Rounds half to even within `[min, max]` of each block, so that decoding errs by half a step at most.
    With ``channel_separable`` channels are divided by `sqrt(max |x|)` first (ZipCache, arXiv
    2405.14256).

    Args:
        x: `[N, C]`, any float type, any device.
        bits: of a code: 2, 4 or 8.
        tokens: of a block.
        channels: of a block.
        channel_separable: divide channels first, see above.

    Raises:
        ArgumentError: ``bits`` is not 2, 4 or 8, a block is empty, or an element is not finite.
        ShapeError: x is not a matrix.
    """
    x = x.detach().to("cpu", torch.float32).contiguous()
    if x.dim() != 2 or x.shape[1] == 0:
        raise ArgumentError(f"x has shape {list(x.shape)}, expected [N, C] with at least one channel")
    rows, width = x.shape
    tokens = max(rows, 1) if tokens is None else tokens
    channels = width if channels is None else channels
    if tokens < 1 or channels < 1:
        raise ArgumentError(f"a block is {tokens} tokens by {channels} channels, expected at least 1 by 1")
    codes = torch.empty(rows, -(-width * bits // 8), dtype=torch.uint8, device="cpu")
    params = torch.empty(-(-rows // tokens), -(-width // channels), 2, dtype=torch.float32, device="cpu")
    scale = torch.empty(width, dtype=torch.float32, device="cpu") if channel_separable else None
    _native.quantise(x, bits, tokens, channels, codes, params, scale)
    return Quantised(bits, tokens, channels, width, codes, params, scale)
