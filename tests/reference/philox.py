"""Philox4x32-10 (Salmon et al., SC 2011) in plain integers, and the draws that hornbeam derives from it.

The key is (seed low, seed high), the counter (block, position, sequence, domain << 24 | node).
"""

import math

import numpy as np

SAMPLE, DRAFT, ACCEPT, RESIDUAL, BONUS = range(5)

_MASK = 0xFFFFFFFF


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """One block of four words."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & _MASK, (a >> 32) ^ c[3] ^ k[1], a & _MASK]
        k = [(k[0] + 0x9E3779B9) & _MASK, (k[1] + 0xBB67AE85) & _MASK]
    return c[0], c[1], c[2], c[3]


def words(seed: int, sequence: int, position: int, domain: int, node: int, block: int = 0) -> tuple[int, ...]:
    """The four words of a draw."""
    return philox((block, position, sequence, domain << 24 | node), (seed & _MASK, seed >> 32))


def uniform(word: int) -> float:
    """A double in (0, 1); exact."""
    return (word + 0.5) / 2**32


def exponential(word: int) -> float:
    """-ln(uniform(word)), by the series that hornbeam uses, operation for operation."""
    mantissa, exponent = math.frexp(uniform(word))
    if mantissa >= np.uint64(0x3FE6A09E667F3BCD).view(np.float64):
        m, e = mantissa, exponent
    else:
        m, e = 2 * mantissa, exponent - 1
    s = (m - 1.0) / (m + 1.0)
    t = s * s
    series = 1.0 / 23.0
    for odd in range(21, 1, -2):
        series = series * t + 1.0 / odd
    return -(e * math.log(2) + 2.0 * (s + s * (t * series)))
