"""Random plans over random pools, for the operations that read or write pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hornbeam import _native
from tests.cuda.emulator import place

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass
class Case:
    """A pool with random content, and a plan over it."""

    chunks: list[torch.Tensor]
    plan: _native.Plan
    num_layers: int
    num_kv_heads: int
    head_dim: int


def int32(rows: list, width: int) -> np.ndarray:
    return np.array(rows, dtype=np.int32).reshape(-1, width)


def forest(
    random: np.random.Generator,
    *,
    dtype: torch.dtype = torch.float32,
    num_requests: int = 2,
    most_rows: int = 4,
    num_kv_heads: int = 2,
    head_dim: int = 32,
    num_layers: int = 2,
    page_tokens: int = 16,
    prefix_keys: int = 40,
    by_head: bool = False,
) -> Case:
    """A forest: a prefix that all requests share, a run of keys a request, and draft trees.

    Entries are ragged (any first slot, any count), some with explicit positions; with `by_head` the
    planes of each request's own run show different keys.
    """
    planes = num_layers * num_kv_heads
    slabs_per_chunk = int(random.integers(2, 7))
    slabs: list[int] = []
    entries: list[list[int]] = []
    positions: list[int] = []
    head_ranges: list[list[int]] = []
    reads: list[list[int]] = []

    def slab() -> int:
        slabs.append(len(slabs))
        return slabs[-1]

    def run(count: int, position: int, *, ragged: bool = True, page: int | None = None) -> int:
        """Entries that show `count` keys; where they begin."""
        begin = len(entries)
        while count > 0:
            first = int(random.integers(0, page_tokens)) if ragged and random.random() < 0.5 else 0
            take = min(count, page_tokens - first)
            if ragged and take > 1 and random.random() < 0.3:
                take = int(random.integers(1, take + 1))
            at = -1
            if ragged and random.random() < 0.3:
                at = len(positions)
                positions.extend(range(position, position + take))
            entries.append([slab() if page is None else page, first | take << 16, position, at])
            count -= take
            position += take
        return begin

    sizes = [int(random.integers(1, most_rows + 1)) for _ in range(num_requests)]
    num_rows = sum(sizes)
    row_positions, row_end, row_slots = [0] * num_rows, [0] * num_rows, [[0, 0]] * num_rows
    if prefix_keys:
        begin = run(prefix_keys, 0)
        reads.append([begin, len(entries), 0, num_rows, prefix_keys, 0, -1, 0])
    own_reads = []
    row = 0
    for size in sizes:
        own_keys = int(random.integers(0, 30))
        if own_keys and by_head:
            at, most = len(head_ranges), 0
            for _ in range(planes):
                shown = int(random.integers(0, own_keys + 1))
                begin, most = run(shown, prefix_keys), max(most, shown)
                head_ranges.append([begin, len(entries)])
            reads.append([at, len(head_ranges), row, row + size, most, 2, -1, 0])
        elif own_keys:
            begin = run(own_keys, prefix_keys)
            reads.append([begin, len(entries), row, row + size, own_keys, 0, -1, 0])
        # A random tree in depth-first order: row i hangs below some row of the current path.
        path: list[int] = []
        for i in range(size):
            depth = int(random.integers(0, len(path) + 1))
            for ended in path[depth:]:
                row_end[ended] = row + i
            path = [*path[:depth], row + i]
            row_positions[row + i] = prefix_keys + own_keys + depth
        for ended in path:
            row_end[ended] = row + size
        begin = len(entries)
        done, first = 0, int(random.integers(0, page_tokens))
        while done < size:
            take = min(size - done, page_tokens - first)
            page, at = slab(), len(positions)
            positions.extend(row_positions[row + done : row + done + take])
            entries.append([page, first | take << 16, 0, at])
            for i in range(take):
                row_slots[row + done + i] = [page, first + i]
            done, first = done + take, 0
        own_reads.append([begin, len(entries), row, row + size, size, 1, -1, 0])
        row += size
    reads += own_reads

    num_chunks = -(-len(slabs) // slabs_per_chunk)
    # Slabs in any order, and in a by-head read page ids in the place of slabs.
    order = random.permutation(num_chunks * slabs_per_chunk)
    by_page = {e for a, b in head_ranges for e in range(a, b)}
    for index, entry in enumerate(entries):
        place = int(order[entry[0]])
        entry[0] = place
        if index in by_page:
            plane = next(i % planes for i, (a, b) in enumerate(head_ranges) if a <= index < b)
            chunk, within = divmod(place, slabs_per_chunk)
            entry[0] = (chunk * planes + plane) * slabs_per_chunk + within
    row_slots = [[int(order[s]), t] for s, t in row_slots]
    generator = torch.Generator().manual_seed(int(random.integers(1 << 30)))
    shape = (planes, slabs_per_chunk, 2, page_tokens, head_dim)
    chunks = [torch.randn(shape, generator=generator).to(dtype) for _ in range(num_chunks)]
    plan = _native.Plan(
        int32(entries, 4),
        np.array(positions, dtype=np.int32),
        int32(head_ranges, 2),
        int32(reads, 8),
        np.array(row_positions, dtype=np.int32),
        np.array(row_end, dtype=np.int32),
        int32(row_slots, 2),
    )
    return Case(chunks, plan, num_layers, num_kv_heads, head_dim)


def upload(
    case: Case, num_heads: int, **cut: Any
) -> tuple[_native.CudaPlan, torch.Tensor, list[torch.Tensor]]:
    """The packed plan, its words and the pool, where the kernels run: on the CPU, the case's own pool."""
    chunks = [chunk.to(place()) for chunk in case.chunks]
    packed = _native.CudaPlan(case.plan, chunks, num_heads, case.num_kv_heads, 4, **cut)
    return packed, torch.frombuffer(bytearray(packed.words), dtype=torch.int32).to(place()), chunks
