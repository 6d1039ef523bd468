"""Sparse attention within one pass: which keys the rows of each layer read, and which were there.

A pass is told of its recipes by intervals of rows. In decoding a layer's queries choose pages, and its
attention reads the pages that were chosen; a prompt that is read sparsely has a pass of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from hornbeam import _native
from hornbeam.errors import ArgumentError, ShapeError

if TYPE_CHECKING:
    from hornbeam._native import Plan
    from hornbeam.cache.key_table import KeyTable
    from hornbeam.cache.tree import PrefixTree, Step
    from hornbeam.model.shape import ModelShape

__all__ = ["RowRecipe", "SparseChunk", "SparsePrefill", "SparseReads", "SparseRows"]


class SparseReads(Protocol):
    """What decodes sparsely: :class:`hornbeam.attend.Recipe` is one."""

    @property
    def rule(self) -> _native.AttendRule:
        """Which pages a row reads."""
        ...

    @property
    def dense_layers(self) -> int:
        """The first so many layers read everything."""
        ...


class SparsePrefill(Protocol):
    """What reads prompts sparsely."""

    def attention(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor | None:
        """Attention of one layer, ``[N, H, D]``; None where everything is to be read.

        Args:
            layer: index of the layer.
            query: ``[H, N, D]``, of the last N of M tokens, rotated.
            key: ``[Hk, M, D]``, rotated.
            value: ``[Hk, M, D]``.
            scale: factor of the scores.
        """
        ...


#: The flag of a read of the step's own keys.
_OWN = 1

RowRecipe = tuple[int, int, SparseReads]
"""The first row of an interval, one past its last, and what these rows read by."""


class SparseRows:
    """The selections of one pass.

    Args:
        tree: of the pages.
        plan: of the pass.
        shape: of the model.
        recipes: disjoint intervals of rows with their recipes; rows in none read everything.

    Raises:
        ArgumentError: an interval lies outside of the rows, or two of them meet.
    """

    def __init__(self, tree: PrefixTree, plan: Plan, shape: ModelShape, recipes: Sequence[RowRecipe]) -> None:
        self._tree = tree
        self._plan = plan
        self._shape = shape
        self._rules = [(begin, end, recipe.rule, recipe.dense_layers) for begin, end, recipe in recipes]
        reached = 0
        for begin, end, *_ in sorted(self._rules, key=lambda rule: rule[:2]):
            if not reached <= begin < end <= plan.num_rows:
                raise ArgumentError(
                    f"attend has rows {begin} to {end}, expected disjoint intervals of {plan.num_rows} rows"
                )
            reached = end
        self._read = self._keys = 0  # over the layers that chose
        # Keys before the pass, over kv heads; where heads have keys of their own, at most so many.
        self._there = sum(read[4] for read in plan.reads.tolist() if not read[5] & _OWN) * shape.num_kv_heads
        self._num_dense = 0  # layers without a window in which nobody chose

    def selection(
        self, index: int, layer: int, queries: torch.Tensor, scale: float | None
    ) -> _native.Selection | None:
        """What the rows of a layer read; None where all read everything.

        Args:
            index: of the layer.
            layer: physical layer.
            queries: ``[rows, H, D]``, rotated.
            scale: factor of the scores.
        """
        if index not in self._shape.full_layers:
            return None
        rules = [(begin, end, rule) for begin, end, rule, dense in self._rules if index >= dense]
        if not rules:
            self._num_dense += 1
            return None
        found = _native.select_pages(
            self._tree._native,
            queries,
            self._tree.chunks,
            self._plan,
            layer,
            self._shape.num_kv_heads,
            self._shape.scale if scale is None else scale,
            rules,
        )
        self._read += found.union_keys
        self._keys += found.plan_keys
        return found

    @property
    def keys_read(self) -> int:
        """Keys before the pass that it read, over the kv heads of all layers without a window: each is
        counted once, however many rows saw it."""
        return self._read + self._num_dense * self._there

    @property
    def keys(self) -> int:
        """Keys before the pass that were there to be read, counted alike."""
        return self._keys + self._num_dense * self._there


class SparseChunk:
    """A chunk of a prompt that is read sparsely, alone in its pass.

    Args:
        tree: of the pages.
        step: the pass, of one request whose rows are a chain.
        shape: of the model.
        recipe: what reads it.

    Raises:
        ArgumentError: the step has several requests, or a tree of rows.
    """

    def __init__(self, tree: PrefixTree, step: Step, shape: ModelShape, recipe: SparsePrefill) -> None:
        if len(step.rows) != 1 or not step.is_chain:
            raise ArgumentError(
                f"prefill reads a step of {len(step.rows)} requests, expected one whose rows are a chain"
            )
        self._tree = tree
        self._shape = shape
        self._recipe = recipe
        self._table: KeyTable | None = None
        #: Whether every token before the rows still has its key, so that a recipe can be asked.
        self.is_whole = True
        if not step.is_dense:
            self._table = tree.key_table(step.branches[0], in_step=True)
            num_tokens = step.branches[0].length + step.num_rows
            self.is_whole = bool((self._table.counts == num_tokens).all())

    def attention(
        self,
        index: int,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float | None,
    ) -> torch.Tensor | None:
        """Attention of one layer ``[N, H, D]``; None where everything is to be read.

        Args:
            index: of the layer.
            layer: physical layer.
            query: ``[H, N, D]``, rotated.
            key: ``[Hk, N, D]`` of the rows, rotated, as the pages hold it.
            value: likewise.
            scale: factor of the scores.

        Raises:
            ShapeError: the recipe gave something else.
        """
        if not self.is_whole or index not in self._shape.full_layers:
            return None
        if self._table is not None:
            key, value = self._gather(self._table, layer, key)
        scale = self._shape.scale if scale is None else scale
        found: Any = self._recipe.attention(index, query, key, value, scale)
        if found is None:
            return None
        heads, rows, dim = query.shape
        if not isinstance(found, torch.Tensor) or found.shape != (rows, heads, dim):
            got = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            name = type(self._recipe).__name__
            raise ShapeError(f"{name}.attention gave {got}, expected [{rows}, {heads}, {dim}]")
        return found.to(query.dtype)

    def _gather(self, table: KeyTable, layer: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values ``[Hk, M, D]`` of a layer, those before the rows and their own."""
        keys, values = table.layer_rows(self._tree.chunks, layer, self._shape.num_kv_heads)
        return keys.to(like.dtype), values.to(like.dtype)
