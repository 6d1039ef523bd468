"""Sparse prefill, written from the papers in plain float64 loops over pairs of rows and keys."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Table = NDArray[np.bool_]


def dense_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Output `[N, H, D]` and log-sum-exp `[N, H]` in float64 over the keys that each row of each head sees,
    bool `[H, N, M]`; a row that sees none gives zeros."""
    group = q.shape[0] // k.shape[0]
    k, v = (x.double().repeat_interleave(group, 0) for x in (k, v))
    scores = ((q.double() @ k.transpose(1, 2)) * scale).masked_fill(~seen, -torch.inf)
    weights = scores.softmax(-1).nan_to_num(0.0)
    return (weights @ v).transpose(0, 1), scores.logsumexp(-1).t()


def seen_by(blocks: Tensor, block_rows: int, block_keys: int, rows: int, keys: int) -> Tensor:
    """Which key each row of each head sees, bool `[H, N, M]`, where a table of blocks says what is read."""
    wide = blocks.repeat_interleave(block_rows, 1)[:, :rows].repeat_interleave(block_keys, 2)[:, :, :keys]
    return wide & torch.ones(rows, keys, dtype=torch.bool).tril(keys - rows)


def probabilities(query: Tensor, key: Tensor, scale: float) -> NDArray[np.float64]:
    """Causal attention probabilities of one head, `[N, M]`; the rows are the last positions."""
    rows, keys = query.shape[0], key.shape[0]
    scores = (query.double() @ key.double().t()) * scale
    hidden = torch.ones(rows, keys, dtype=torch.bool).triu(keys - rows + 1)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1).numpy()


def lines(p: NDArray[np.float64], keys: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean mass of each key, and of each distance from a row to its key, under the given last rows."""
    vertical, slash = np.zeros(keys), np.zeros(keys)
    for row in range(len(p)):
        position = keys - len(p) + row
        for key in range(position + 1):
            vertical[key] += p[row, key] / len(p)
            slash[position - key] += p[row, key] / len(p)
    return vertical, slash


def fewest(mass: Sequence[float], share: float) -> tuple[set[int], float]:
    """Indices by falling mass, the first of equals first, until their sum reaches a share of the whole; and
    how near the sum came to that share without reaching it or after: a small number is an unclear case."""
    order = sorted(range(len(mass)), key=lambda i: (-mass[i], i))
    whole, total, nearest = math.fsum(mass), 0.0, math.inf
    chosen: set[int] = set()
    for i in order if share > 0 else []:
        chosen.add(i)
        total += mass[i]
        nearest = min(nearest, abs(total - share * whole))
        if total >= share * whole:
            break
    return chosen, nearest


def sums(numbers: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    return np.array([numbers[i : i + block].sum() for i in range(0, len(numbers), block)])


def divergence(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Jensen-Shannon, in nats, with 0 log 0 = 0."""
    middle = (a + b) / 2

    def relative(p: NDArray[np.float64]) -> float:
        return math.fsum(x * math.log(x / m) for x, m in zip(p, middle, strict=True) if x > 0)

    return max((relative(a) + relative(b)) / 2, 0.0)


def lines_to_blocks(
    verticals: set[int], slashes: set[int], rows: int, keys: int, block_rows: int, block_keys: int
) -> Table:
    """Blocks with a pair of a row and a key that it may see on one of the lines."""
    table = np.zeros((-(-rows // block_rows), -(-keys // block_keys)), dtype=bool)
    for row in range(rows):
        position = keys - rows + row
        for key in range(position + 1):
            if key in verticals or position - key in slashes:
                table[row // block_rows, key // block_keys] = True
    # A block is read whole: a vertical line reads it where any row of the block may see any of its keys.
    for row_block in range(table.shape[0]):
        last = keys - rows + min((row_block + 1) * block_rows, rows) - 1
        for key in verticals:
            if key // block_keys * block_keys <= last:
                table[row_block, key // block_keys] = True
    return table


def flex_prefill(
    query: Tensor,
    key: Tensor,
    scale: float,
    *,
    gamma: float,
    tau: float,
    min_budget: int,
    block: int,
    block_keys: int,
) -> tuple[str, Table, float]:
    """The pattern of one head, the blocks that it reads, and how clear the choice was (arXiv 2502.20766,
    algorithms 1 to 4)."""
    rows, keys = query.shape[0], key.shape[0]
    last = min(block, rows)
    vertical, slash = lines(probabilities(query[-last:], key, scale), keys)
    # Algorithm 2: the estimate from pooled vectors beside the pooled truth.
    key_means = torch.stack([part.double().mean(0) for part in key.split(block)])
    logits = (query[-last:].double().mean(0) @ key_means.t()) * scale
    distance = math.sqrt(divergence(logits.softmax(0).numpy(), sums(vertical, block)))
    is_query_aware = distance < tau
    clear = abs(distance - tau)
    # Algorithm 3, in groups of neighbouring lines.
    chosen = []
    for mass in (vertical, slash):
        groups = sums(mass, block_keys)
        order = sorted(range(len(groups)), key=lambda i: (-groups[i], i))
        found: set[int] = set()
        if not is_query_aware:
            found, nearest = fewest(groups.tolist(), gamma)
            clear = min(clear, nearest)
        count = max(len(found), -(-min_budget // block_keys))
        top = order[:count]
        if count < len(order):
            clear = min(clear, groups[order[count - 1]] - groups[order[count]])
        chosen.append(
            {i * block_keys + j for i in top for j in range(block_keys) if i * block_keys + j < keys}
        )
    chosen[0] |= set(range(min(block, keys)))
    chosen[1] |= {0}
    table = lines_to_blocks(chosen[0], chosen[1], rows, keys, block, block_keys)
    if is_query_aware:  # Algorithm 4
        means = torch.stack([part.double().mean(0) for part in query.split(block)])
        logits = (means @ key_means.t()) * scale
        for row_block in range(logits.shape[0]):
            end = keys - rows + min((row_block + 1) * block, rows)
            logits[row_block, -(-end // block) :] = -torch.inf
        pooled: list[float] = logits.softmax(1).flatten().tolist()
        found, nearest = fewest(pooled, gamma)
        clear = min(clear, nearest)
        for pair in found:
            row_block, wide = divmod(pair, logits.shape[1])
            end = keys - rows + min((row_block + 1) * block, rows)
            for place in range(wide * block, min((wide + 1) * block, end)):
                table[row_block, place // block_keys] = True
    return "query_aware" if is_query_aware else "vertical_slash", table, clear
