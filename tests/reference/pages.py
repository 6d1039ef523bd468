"""Pages in codes, from the description of their bytes in rust/core/src/format/page.rs, in numpy."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: number: bits, tokens of a block of keys by channel (0: by token), channels of a block of values, factors.
FORMATS = {
    1: (8, 0, 256, False),
    2: (4, 0, 256, False),
    3: (2, 0, 256, False),
    4: (4, 32, 32, False),
    5: (2, 32, 32, False),
    6: (4, 10**9, 256, True),
    7: (2, 10**9, 256, True),
}


@dataclass
class Decoded:
    """Keys and values `[T, D]`, the step of each element, and its size: what its two parts, the least
    value of the block and the steps above it, add up to without their signs. All float64."""

    keys: np.ndarray
    values: np.ndarray
    key_steps: np.ndarray
    value_steps: np.ndarray
    key_sizes: np.ndarray
    value_sizes: np.ndarray


def num_bytes(number: int, head_dim: int, tokens: int) -> int:
    bits, group, channels, factors = FORMATS[number]
    padded = -(-head_dim // 16) * 16
    row = -(-head_dim * bits // 128) * 16
    key = 4 * tokens if group == 0 else -(-tokens // group) * 4 * padded
    return 2 * tokens * row + key + 4 * tokens * -(-head_dim // channels) + (2 * padded if factors else 0)


def capacity(number: int, head_dim: int, page_bytes: int) -> int:
    return max(t for t in range(4096) if t == 0 or num_bytes(number, head_dim, t) <= page_bytes)


def decode(page: Tensor, number: int) -> Decoded:
    """A page `[2, page_tokens, head_dim]` of any dtype, as codes; all its tokens."""
    bits, group, channels, has_factors = FORMATS[number]
    dim = page.shape[2]
    data = page.contiguous().view(torch.uint8).numpy().ravel()
    tokens = capacity(number, dim, data.size)
    padded, row = -(-dim // 16) * 16, -(-dim * bits // 128) * 16
    unit = 128 // bits
    at = 0

    def take(shape: tuple[int, ...], dtype: type) -> np.ndarray:
        nonlocal at
        size = math.prod(shape) * np.dtype(dtype).itemsize
        part = data[at : at + size].copy().view(dtype).reshape(shape)
        at += size
        return part

    def codes() -> np.ndarray:
        rows = take((tokens, row), np.uint8)
        out = np.zeros((tokens, dim))
        for c in range(dim):
            byte, shift = c // unit * 16 + c % 16, c % unit // 16 * bits
            out[:, c] = rows[:, byte] >> shift & (2**bits - 1)
        return out

    key_codes, value_codes = codes(), codes()
    key_least, key_steps = np.zeros((tokens, dim)), np.zeros((tokens, dim))
    if group == 0:
        key_least[:] = take((tokens,), np.float16)[:, None]
        key_steps[:] = take((tokens,), np.float16)[:, None]
    else:
        for first in range(0, tokens, group):
            key_least[first : first + group] = take((padded,), np.float16)[:dim]
            key_steps[first : first + group] = take((padded,), np.float16)[:dim]
    value_least, value_steps = np.zeros((tokens, dim)), np.zeros((tokens, dim))
    for first in range(0, dim, channels):
        value_least[:, first : first + channels] = take((tokens,), np.float16)[:, None]
        value_steps[:, first : first + channels] = take((tokens,), np.float16)[:, None]
    factors = take((padded,), np.float16)[:dim].astype(float) if has_factors else 1.0
    return Decoded(
        key_least + key_steps * key_codes,
        (value_least + value_steps * value_codes) * factors,
        key_steps,
        value_steps * factors,
        np.abs(key_least) + key_steps * key_codes,
        (np.abs(value_least) + value_steps * value_codes) * factors,
    )
