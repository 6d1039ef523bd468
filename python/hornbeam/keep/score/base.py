"""What all scores declare, and what a score in Python is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.keep.factor import Factor

__all__ = ["MomentsOfQueries", "Score"]


class MomentsOfQueries(NamedTuple):
    """The mean and the covariance of queries that a score asks for in place of the queries themselves."""

    #: Rows before this position count only until there is another.
    sinks: int
    #: Positions ahead over which the rotation of queries yet to come is averaged.
    future: int
    #: Angles a position that queries are rotated by; None where they are not turned back.
    inverse_frequencies: tuple[float, ...] | None


@dataclass(frozen=True)
class Score(Factor):
    """Base of all scores. One of your own overrides :meth:`scores` and, where it reads queries,
    :attr:`num_rows`; where it protects tokens or keeps them by units, :attr:`protected` and :attr:`unit`."""

    kind: ClassVar[str] = "score"
    method: ClassVar[str] = "scores"
    #: Rows of queries, the last ones, that :meth:`scores` of a subclass in Python is given.
    num_rows: ClassVar[int] = 0
    #: Whether it scores by :meth:`layer_scores`, from what attention modules are given.
    reads_inputs: ClassVar[bool] = False

    @property
    def protected(self) -> tuple[int, int, int]:
        """Tokens kept from the start, tokens kept from the end, and the percentage of a plane's budget
        that goes to the newest tokens where that is more. They count against the budget. A score in Python
        protects none unless it overrides this."""
        return (0, 0, 0) if self.native is None else _native.keep_check(self.kind, self.spec())[:3]

    @property
    def unit(self) -> int:
        """Neighbouring tokens that are kept or dropped together: 1 for a score in Python unless it overrides
        this."""
        return 1 if self.native is None else _native.keep_check(self.kind, self.spec())[3]

    @property
    def moments(self) -> MomentsOfQueries | None:
        """The moments of queries that it needs in place of queries, if any."""
        return None

    def row_sets(self, num_tokens: int) -> list[tuple[int | None, list[int] | None]]:
        """The sets of query rows that it reads, each either (number of the last rows, None) or (None, indices
        of any rows among ``num_tokens`` whose probability mass it sums up).

        Args:
            num_tokens: rows that there are.
        """
        if not self.is_native:
            return [(self.num_rows, None)]
        return _native.keep_rows(self.spec(), num_tokens)

    def with_frequencies(self, inverse_frequencies: tuple[float, ...]) -> Score:
        """The same score for a model whose rotary embedding has these angles a position.

        Args:
            inverse_frequencies: angles a position, `head_dim / 2`.
        """
        return self

    def scores(self, keys: Tensor, values: Tensor, queries: Tensor, scale: float) -> Tensor:
        """Scores `[B, L, Hk, N]` in float32.

        While a text is generated a score in Python is called for one layer of one sequence (`L = B = 1`), and
        for one kv head (`Hk = 1`) where the heads of the layer hold different numbers of keys.

        Args:
            keys: `[L, B, Hk, N, D]`, float32, contiguous, on the CPU; rotated as in the cache.
            values: the same shape.
            queries: `[L, B, H, W, D]`, rotated, of the last W of the N tokens. A score in Python gets its
                :attr:`num_rows`, or as many as there are.
            scale: what attention multiplies scores by.

        Raises:
            ShapeError: the score needs more rows of queries than W; the message says how many.
        """
        self.require_method()
        layers, batch, heads, tokens, _ = keys.shape
        out = torch.empty(batch, layers, heads, tokens, dtype=torch.float32, device="cpu")
        _native.keep_scores(self.spec(), keys, values, queries, scale, out)
        return out

    def layer_scores(
        self, module: torch.nn.Module, hidden: Tensor, keys: Tensor, values: Tensor, rotary: Any
    ) -> Tensor:
        """Scores `[Hk, N]` of one layer, float32, of a score that :attr:`reads_inputs`.

        Args:
            module: the attention module.
            hidden: `[1, N, hidden]`, its inputs.
            keys: `[1, Hk, N, D]`, as they lie in the cache.
            values: `[1, Hk, N, D]`.
            rotary: the position embeddings that the module was given.
        """
        raise ArgumentError(
            f"{type(self).__name__} has no method layer_scores, expected one that reads inputs"
        )

    def evaluate(self, keys: Tensor, values: Tensor, queries: Tensor, scale: float) -> Tensor:
        """What :meth:`scores` gives of ``keys``, ``values``, ``queries`` and ``scale``, checked where a
        subclass in Python gives it.

        Raises:
            ShapeError: shapes of the arguments disagree, the score needs more rows of queries, or it returns
                another shape than `[B, L, Hk, N]`.
        """
        if self.is_native:
            return self.scores(keys, values, queries, scale)
        name, (layers, batch, heads, tokens, _), have = type(self).__name__, keys.shape, queries.shape[3]
        if values.shape != keys.shape:
            raise ShapeError(
                f"values has shape {list(values.shape)}, expected that of keys, {list(keys.shape)}"
            )
        fits = queries.shape[:2] == keys.shape[:2] and queries.shape[4] == keys.shape[4]
        if not fits or queries.shape[2] % max(heads, 1) or have > tokens:
            want = f"[{layers}, {batch}, G * {heads}, at most {tokens}, {keys.shape[4]}]"
            raise ShapeError(f"queries has shape {list(queries.shape)}, expected {want}")
        asked = max((count for count, _ in self.row_sets(tokens) if count is not None), default=0)
        if have < min(asked, tokens):
            raise ShapeError(f"queries has {have} rows, expected {min(asked, tokens)}, which {name} reads")
        rows = queries[:, :, :, have - min(asked, have) :]
        found = self.scores(keys, values, rows, scale)
        if not isinstance(found, Tensor) or found.shape != (batch, layers, heads, tokens):
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ShapeError(f"{name}.scores gave {got}, expected [{batch}, {layers}, {heads}, {tokens}]")
        return found.detach().to("cpu", torch.float32).contiguous()
