"""What dense and sparse attention take on this machine, measured as prompts are read.

A sparse layer takes the time of choosing and the time of each pair of a row and a key that it reads; a dense
one the time of each pair that there is. Both rates are tried once on a few of the rows at hand; from then on
the calls themselves correct that of the sparse one, and remember how much of each layer was read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from hornbeam import ops

__all__ = ["MEASURED", "Call", "CostModel"]

#: Rows that a rate is tried on.
TRIED_ROWS = 256
#: How often.
TRIES = 5
#: How much a new number counts beside those before it: a time that is shorter than they were counts more,
#: since others on the machine only ever make times longer.
NEWEST, SHORTER = 0.25, 0.75
#: Where layers were better read densely, one is looked at again after so many calls.
LOOK_AGAIN = 32

Key = TypeVar("Key")
#: Heads, kv heads, head size, type, threads, and whether rows are behind a prefix: calls of one kind have the
#: same rates.
Kind = tuple[int, int, int, torch.dtype, int, bool]
#: Of which kind a call is, its length to a power of two, the recipe and the layer.
Place = tuple[Kind, int, Hashable, int]


class CostModel:
    """Rates of this machine, by the kind of call and the length to a power of two.

    Args:
        margin: how many times as fast sparse must be expected to be.
    """

    def __init__(self, margin: float = 1.05) -> None:
        self.margin = margin
        #: Seconds of a pair of a row and a key in dense attention, by kind and length.
        self.dense: dict[tuple[Kind, int], float] = {}
        #: The same of sparse attention, of a pair that is read.
        self.sparse: dict[Kind, float] = {}
        #: Seconds of choosing, a key and query head, by kind and recipe.
        self.choice: dict[tuple[Kind, Hashable], float] = {}
        #: The share of pairs that a layer read.
        self.share: dict[Place, float] = {}
        #: Calls that were not looked at since the last one that was, by kind, length and recipe.
        self.skipped: dict[tuple[Kind, int, Hashable], int] = {}
        #: What has chosen once: a first call also warms up, and its time says nothing.
        self.warm: set[tuple[Kind, Hashable]] = set()

    def __repr__(self) -> str:
        return f"CostModel(margin={self.margin})"

    def call(
        self,
        recipe: Hashable,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        least: int,
    ) -> Call:
        """What is known of a call.

        Args:
            recipe: what chooses.
            layer: which layer.
            query: `[H, N, D]`.
            key: `[Hk, M, D]`.
            value: `[Hk, M, D]`.
            scale: factor of the scores.
            least: pairs of a row and a key that a head reads at least.
        """
        heads, rows, dim = query.shape
        kv_heads, keys, _ = key.shape
        behind = rows < keys
        kind = (heads, kv_heads, dim, query.dtype, torch.get_num_threads(), behind)
        length = keys.bit_length()
        tried = slice(0, heads // kv_heads), slice(max(rows - TRIED_ROWS, 0), rows)
        arrays = query[tried], key[:1], value[:1], scale
        if kind not in self.sparse:
            self.sparse[kind] = _sparse_rate(*arrays)
        if (kind, length) not in self.dense:
            # Behind a prefix the caller reads pages, with the same products as the sparse operation.
            self.dense[kind, length] = self.sparse[kind] if behind else _dense_rate(*arrays)
        every = heads * (rows * (keys - rows) + rows * (rows + 1) // 2)
        return Call(self, (kind, length, recipe, layer), heads * keys, every, heads * least)


@dataclass(frozen=True)
class Call:
    """One call: what it takes, as far as is known.

    Args:
        model: what is known.
        place: the kind, the length, the recipe and the layer.
        choices: keys times query heads.
        every: pairs of a row and a key that dense attention reads, over all heads.
        least: pairs that sparse attention reads at least.
    """

    model: CostModel
    place: Place
    choices: int
    every: int
    least: int

    @property
    def _choice(self) -> tuple[Kind, Hashable]:
        return self.place[0], self.place[2]

    @property
    def dense_seconds(self) -> float:
        """Of dense attention."""
        return self.model.dense[self.place[:2]] * self.every

    def is_worth_a_look(self) -> bool:
        """Whether choosing and reading what such calls read may win: what this layer read before where that
        is known, else the least that it can read. Where that loses, a call is looked at now and then."""
        model = self.model
        share = model.share.get(self.place)
        pairs = self.least if share is None else max(share * self.every, self.least)
        seconds = model.choice.get(self._choice, 0.0) * self.choices + model.sparse[self.place[0]] * pairs
        if seconds * model.margin < self.dense_seconds:
            return True
        calls = self.place[:3]
        skipped = model.skipped.get(calls, 0) + 1
        model.skipped[calls] = skipped % LOOK_AGAIN
        return skipped == LOOK_AGAIN

    def wins(self, seconds: float, pairs: int) -> bool:
        """Whether reading wins, now that choosing is done.

        Args:
            seconds: what choosing took.
            pairs: pairs of a row and a key that were chosen, over all heads.
        """
        model = self.model
        if self._choice in model.warm:
            _correct(model.choice, self._choice, seconds / self.choices)
        model.warm.add(self._choice)
        _correct(model.share, self.place, pairs / self.every)
        return model.sparse[self.place[0]] * pairs * model.margin < self.dense_seconds

    def took(self, seconds: float, pairs: int) -> None:
        """Corrects the rate of sparse attention.

        Args:
            seconds: what it took.
            pairs: pairs of a row and a key that it read.
        """
        _correct(self.model.sparse, self.place[0], seconds / pairs)


#: What all recipes have measured in this process.
MEASURED = CostModel()


def _correct(known: dict[Key, float], key: Key, value: float) -> None:
    before = known.get(key, value)
    known[key] = before + (SHORTER if value < before else NEWEST) * (value - before)


def _quickest(call: Callable[[], object]) -> float:
    """Seconds of the quickest one of some calls; the first also warms up."""
    seconds = []
    for _ in range(TRIES):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _dense_rate(query: Tensor, key: Tensor, value: Tensor, scale: float) -> float:
    """Seconds of a pair: torch's attention of some rows over all keys."""
    arrays = query[None], key[None], value[None]
    attention = torch.nn.functional.scaled_dot_product_attention
    seconds = _quickest(lambda: attention(*arrays, scale=scale, enable_gqa=True))
    return seconds / (query.shape[0] * query.shape[1] * key.shape[1])


def _sparse_rate(query: Tensor, key: Tensor, value: Tensor, scale: float) -> float:
    """Seconds of a pair that is read: the same rows over all keys that they may see."""
    heads, rows, _ = query.shape
    keys = key.shape[1]
    blocks = torch.ones(heads, -(-rows // 128), -(-keys // 128), dtype=torch.bool, device="cpu")
    seconds = _quickest(lambda: ops.block_sparse_attention(query, key, value, blocks, scale=scale))
    return seconds / (heads * (rows * (keys - rows) + rows * (rows + 1) // 2))
