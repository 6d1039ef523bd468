"""Attention as the means of blocks of queries and keys see it."""

from __future__ import annotations

import torch
from torch import Tensor

from hornbeam.attend.prefill.lines import Grid

__all__ = ["block_means", "block_sums", "divergence", "pooled_probabilities", "widened"]


def block_means(vectors: Tensor, block: int) -> Tensor:
    """The mean of each block of vectors, the last one of those that it has, float32 `[blocks, D]`.

    Args:
        vectors: `[n, D]`.
        block: vectors of a block.
    """
    whole = vectors.shape[0] // block * block
    means = [vectors[:whole].float().view(-1, block, vectors.shape[1]).mean(1)]
    if whole < vectors.shape[0]:
        means.append(vectors[whole:].float().mean(0, keepdim=True))
    return torch.cat(means)


def block_sums(numbers: Tensor, block: int) -> Tensor:
    """The sum of each block of numbers, `[blocks]`.

    Args:
        numbers: `[n]`.
        block: numbers of a block.
    """
    padded = torch.nn.functional.pad(numbers, (0, -numbers.shape[0] % block))
    return padded.view(-1, block).sum(1)


def pooled_probabilities(grid: Grid, queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """For each block of rows the softmax over the blocks of keys that some of its rows may see, float64
    `[row blocks, key blocks]`.

    Args:
        grid: the blocks.
        queries: `[row blocks, D]`, their means.
        keys: `[key blocks, D]`, their means.
        scale: factor of the scores.
    """
    scores = (queries.double() * scale) @ keys.double().t()
    return scores.masked_fill(~grid.causal(), -torch.inf).softmax(1)


def divergence(first: Tensor, second: Tensor) -> float:
    """The Jensen-Shannon divergence of two distributions, in nats: 0 to log 2. `0 log 0` is 0.

    Args:
        first: float64 `[n]`, of sum 1.
        second: float64 `[n]`, of sum 1.
    """
    middle = (first + second) / 2
    parts = [(torch.special.xlogy(p, p) - torch.special.xlogy(p, middle)).sum() / 2 for p in (first, second)]
    return max(float(parts[0] + parts[1]), 0.0)


def widened(blocks: Tensor, times: int, count: int) -> Tensor:
    """A table of wide blocks of keys as one of narrow blocks, `[row blocks, count]`.

    Args:
        blocks: bool `[row blocks, wide key blocks]`.
        times: narrow blocks of a wide one.
        count: narrow blocks of all keys.
    """
    return blocks.repeat_interleave(times, 1)[:, :count]
