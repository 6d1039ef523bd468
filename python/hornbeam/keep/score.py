"""What a key is worth. Higher is kept longer.

A score of your own is a subclass of :class:`Score` that overrides :meth:`Score.scores` and, where it
protects tokens or keeps them by units, :attr:`Score.protected` and :attr:`Score.unit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.keep.factor import Factor

__all__ = [
    "AccumulatedMass",
    "ExpectedAttention",
    "GlobalLocal",
    "KeyDifference",
    "KeyNorm",
    "LastQuery",
    "NormalisedMass",
    "Position",
    "Score",
    "ValueWeighted",
    "WindowMass",
    "WindowTokens",
]


@dataclass(frozen=True)
class Score(Factor):
    """Base of all scores."""

    kind: ClassVar[str] = "score"
    #: Rows of queries, the last ones, that :meth:`scores` of a subclass in Python is given.
    num_rows: ClassVar[int] = 0

    @property
    def protected(self) -> tuple[int, int, int]:
        """Tokens kept from the start, tokens kept from the end, and the percentage of a plane's budget
        that goes to the newest tokens where that is more. They count against the budget."""
        return _native.keep_check(self.kind, self.spec())[:3]

    @property
    def unit(self) -> int:
        """Neighbouring tokens that are kept or dropped together."""
        return _native.keep_check(self.kind, self.spec())[3]

    def scores(self, keys: Tensor, values: Tensor, queries: Tensor, scale: float) -> Tensor:
        """Scores `[B, L, Hk, N]` in float32.

        Args:
            keys: `[L, B, Hk, N, D]`, float32, contiguous, on the CPU; rotated as in the cache.
            values: the same shape.
            queries: `[L, B, H, W, D]`, rotated, of the last W of the N tokens.
            scale: what attention multiplies scores by.

        Raises:
            ShapeError: the score needs more rows of queries than W; the message says how many.
        """
        layers, batch, heads, tokens, _ = keys.shape
        out = torch.empty(batch, layers, heads, tokens)
        _native.keep_scores(self.spec(), keys, values, queries, scale, out)
        return out


@dataclass(frozen=True)
class WindowMass(Score):
    """Mean probability under the last ``window`` rows, average-pooled over ``kernel`` tokens, mean over the
    query heads of the group; the window is kept. SnapKV (arXiv 2404.14469); the defaults and
    the zero padding are kvpress's."""

    native: ClassVar[str] = "window_mass"
    window: int = 64
    kernel: int = 5


@dataclass(frozen=True)
class AccumulatedMass(Score):
    """Probability summed over all rows, mean over the query heads of the group: needs the queries of every
    token. H2O (arXiv 2306.14048), which gives half of the budget to the newest tokens. With
    ``across_heads`` the mean runs over the layer, as in PrefixKV (arXiv 2412.03409)."""

    native: ClassVar[str] = "accumulated_mass"
    across_heads: bool = False
    sinks: int = 0
    recent: int = 0
    recent_percent: int = 50


@dataclass(frozen=True)
class NormalisedMass(Score):
    """Probability over probe rows divided by the number of probes that could see the key. Probes are the
    last ``recent`` of rows and ``random`` of rows drawn from the others, without replacement. ZipCache
    (arXiv 2405.14256); its released code divides by the number of tokens after the key and
    draws with replacement."""

    native: ClassVar[str] = "normalised_mass"
    recent: float = 0.05
    random: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class LastQuery(Score):
    """Probability under the last row, mean over all heads of the layer. TOVA (arXiv 2401.06104)."""

    native: ClassVar[str] = "last_query"


@dataclass(frozen=True)
class GlobalLocal(Score):
    """The greater of the pooled mean probability under the last ``window`` rows, and of the probability
    over all rows divided by the rows that see the key, brought to the same mean. The window is kept;
    needs the queries of every token. Our reading of the abstract of EMS (arXiv 2412.08521)."""

    native: ClassVar[str] = "global_local"
    window: int = 32
    kernel: int = 5


@dataclass(frozen=True)
class WindowTokens(Score):
    """Probability of windows of ``window`` tokens under the last ``suffix`` rows, mean over the layer.
    Windows are kept whole, and the suffix is kept. ``pool`` is the mean of a window, or ("max") of its
    greater half. WindowKV (arXiv 2503.17922), where a classifier picks the pool; here the caller does.
    ``suffix`` is 16 for the mean and 32 for the max unless given."""

    native: ClassVar[str] = "window_tokens"
    window: int = 8
    suffix: int | None = None
    pool: Literal["mean", "max"] = "mean"


@dataclass(frozen=True)
class ExpectedAttention(Score):
    """Probability expected under queries yet to come, times the norm of the value (arXiv 2510.00636).

    Queries are taken as Gaussian, with the mean and covariance of those given, from after the ``sinks``; the
    probability is that among the keys after the sinks, as kvpress, the authors' code, has it.
    With ``inverse_frequencies`` (`head_dim / 2`, rotary by halves as in Llama) they are turned back first,
    then by the average rotation of the next ``future`` positions; without them they are used as given.
    kvpress takes its statistics from hidden states; the outcome is the same for all rows of a prompt."""

    native: ClassVar[str] = "expected_attention"
    future: int = 512
    sinks: int = 4
    epsilon: float = 0.0
    inverse_frequencies: tuple[float, ...] | None = None


@dataclass(frozen=True)
class KeyDifference(Score):
    """Minus the cosine between a key and the mean of the normalised keys. KeyDiff (arXiv 2504.15364)."""

    native: ClassVar[str] = "key_difference"


@dataclass(frozen=True)
class KeyNorm(Score):
    """Minus the norm of the key. Knorm (arXiv 2406.11430)."""

    native: ClassVar[str] = "key_norm"


@dataclass(frozen=True)
class Position(Score):
    """The first ``sinks`` tokens and the newest. StreamingLLM (arXiv 2309.17453). Logical
    positions are kept, where the paper renumbers them."""

    native: ClassVar[str] = "position"
    sinks: int = 4


@dataclass(frozen=True)
class ValueWeighted(Score):
    """Another score, not negative, times the norm of the value: the sum of magnitudes as in VATP (arXiv
    2406.12335), or "l2"."""

    native: ClassVar[str] = "value_weighted"
    score: Score = WindowMass()
    norm: Literal["l1", "l2"] = "l1"
