"""What happens to keys and values that are not kept, and how those that are kept are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.errors import ArgumentError
from hornbeam.keep.factor import Factor
from hornbeam.keep.quantise import Quantised, encode

__all__ = [
    "Drop",
    "EvictThenMerge",
    "KeyChannelValueToken",
    "Merge",
    "MixedBits",
    "PageCodes",
    "Reduce",
    "Reduced",
    "SimilarityMerge",
    "TokenBits",
    "ValueMerge",
]


@dataclass(frozen=True)
class Merge:
    """Weights of a merge: for each of the evicted, ascending, int32 ``targets [N - K]`` (slot among the kept,
    or -1 for none) and float32 ``weights [N - K]``; float32 ``own [K]`` of the kept. Those of a slot sum to
    1."""

    targets: Tensor
    weights: Tensor
    own: Tensor


@dataclass(frozen=True)
class Reduced:
    """One plane afterwards: ``kept``, int64 `[K]`, the indices that stay, ascending, and keys and values
    `[K, D]` as attention sees them, in float32. ``num_bytes`` is what they take where they are quantised,
    else None."""

    kept: Tensor
    keys: Tensor
    values: Tensor
    merge: Merge | None = None
    num_bytes: int | None = None


@dataclass(frozen=True)
class Reduce(Factor):
    """Base of all reductions."""

    kind: ClassVar[str] = "reduce"

    def reduce(self, keys: Tensor, values: Tensor, scores: Tensor, kept: Tensor) -> Reduced:
        """Compacts one plane.

        Args:
            keys: `[N, D]`, as they lie in the cache.
            values: `[N, D]`.
            scores: `[N]`.
            kept: `[K]`, ascending indices.

        Raises:
            ShapeError: shapes disagree.
            ArgumentError: an index out of range or order.
        """
        keys, values, scores = (
            x.detach().to("cpu", torch.float32).contiguous() for x in (keys, values, scores)
        )
        indices = kept.to("cpu", torch.int32).contiguous()
        count, evicted = len(indices), max(len(scores) - len(indices), 0)
        k, v = torch.empty(count, keys.shape[-1]), torch.empty(count, keys.shape[-1])
        targets, weights = torch.empty(evicted, dtype=torch.int32), torch.empty(evicted)
        own = torch.empty(count)
        _native.keep_reduce(self.spec(), keys, values, scores, indices, k, v, targets, weights, own)
        return Reduced(indices.long(), k, v, Merge(targets, weights, own))


@dataclass(frozen=True)
class Drop(Reduce):
    """The rest is gone."""

    native: ClassVar[str] = "drop"


@dataclass(frozen=True)
class EvictThenMerge(Reduce):
    """Of the rest, the best ``candidates`` times the number kept join the kept key of greatest cosine, or
    the zero class (nothing) below ``threshold``; keys and values become means weighted by score. Our
    reading of the abstract of EMS (arXiv 2412.08521); both constants are ours."""

    native: ClassVar[str] = "evict_then_merge"
    candidates: float = 1.0
    threshold: float = 0.6


@dataclass(frozen=True)
class ValueMerge(Reduce):
    """Values of the rest are folded into those of the most similar kept keys, by cosine and norm; keys
    stay. As kvpress's merging press."""

    native: ClassVar[str] = "value_merge"
    threshold: float = 0.0


@dataclass(frozen=True)
class SimilarityMerge(Reduce):
    """Those of the rest whose greatest cosine with a kept key is at least the mean one are merged, keys and
    values, weighted by exp(cosine). D2O (arXiv 2406.13035), its prefill rule."""

    native: ClassVar[str] = "similarity_merge"


@dataclass(frozen=True)
class PageCodes(Reduce):
    """Base of what drops the rest, then stores what is kept in codes."""

    native: ClassVar[str] = "drop"

    def __post_init__(self) -> None:
        # Construction checks the parameters by encoding nothing.
        self.codes(torch.zeros(0, 1), torch.zeros(0, 1), torch.zeros(0))

    def spec(self) -> tuple[str, dict[str, float]]:
        """That of dropping the rest; how codes are laid out is Python's."""
        return self.native, {}

    def codes(
        self, keys: Tensor, values: Tensor, scores: Tensor
    ) -> list[tuple[Tensor, Quantised, Quantised]]:
        """What of a plane is encoded, and how.

        Args:
            keys: float32 `[K, D]`, what is kept.
            values: float32 `[K, D]`.
            scores: `[K]`.

        Returns:
            Parts: (indices into the plane, keys, values). What no part names is not encoded.
        """
        raise NotImplementedError

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats of pages that :meth:`classes` chooses from, see :func:`hornbeam.ops.page_formats`."""
        raise NotImplementedError

    def classes(self, scores: Tensor, held: Tensor) -> Tensor:
        """Which of :attr:`formats` each kept key of a plane shall have.

        Args:
            scores: `[K]`, in order of position.
            held: int64 `[K]`: -1 for a plain key; what is in codes already has its class, or any other
                number, and is passed over: nothing is encoded twice.

        Returns:
            int64 `[K]`; -1 stays plain.
        """
        raise NotImplementedError

    def page_formats(self, scores: Tensor) -> list[str | None]:
        """The format of pages that each kept key of a plane shall have, for
        :meth:`hornbeam.PrefixTree.quantise`; None stays plain. There, a class that has its blocks over all
        of its tokens here has them page by page.

        Args:
            scores: `[K]`, of the kept keys in order of position.
        """
        names: list[str | None] = [*self.formats, None]
        return [names[i] for i in self.classes(scores, torch.full((len(scores),), -1)).tolist()]

    def reduce(self, keys: Tensor, values: Tensor, scores: Tensor, kept: Tensor) -> Reduced:
        """As :meth:`Reduce.reduce`; keys and values come back decoded, with the bytes of their codes."""
        size = keys.element_size()
        plain = super().reduce(keys, values, scores, kept)
        k, v = plain.keys, plain.values
        num_bytes = 2 * k.numel() * size
        for indices, part_keys, part_values in self.codes(k, v, scores.cpu()[plain.kept]):
            num_bytes += part_keys.num_bytes + part_values.num_bytes - 2 * len(indices) * k.shape[1] * size
            k[indices], v[indices] = part_keys.decode(), part_values.decode()
        return Reduced(plain.kept, k, v, plain.merge, num_bytes)


@dataclass(frozen=True)
class MixedBits(PageCodes):
    """The lowest ``low_share`` of tokens by score in ``low_bits``, the others in ``high_bits``. Keys by
    channel over the tokens of a class, values by token after their channels were brought to one size.
    ZipCache (arXiv 2405.14256), whose value rows span all heads of a layer; here a
    row is one head's, since heads are stored apart."""

    low_share: float = 0.4
    low_bits: int = 2
    high_bits: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.low_share <= 1:
            raise ArgumentError(f"low_share is {self.low_share}, expected a number from 0 to 1")
        super().__post_init__()

    def codes(
        self, keys: Tensor, values: Tensor, scores: Tensor
    ) -> list[tuple[Tensor, Quantised, Quantised]]:
        """A part for each of the two classes, see :meth:`PageCodes.codes`."""
        low, high = self._classes(scores)
        parts = [(low.sort().values, self.low_bits), (high.sort().values, self.high_bits)]
        return [
            (
                indices,
                encode(keys[indices], bits, tokens=None, channels=1),
                encode(values[indices], bits, channel_separable=True),
            )
            for indices, bits in parts
        ]

    def _classes(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        # Stable, from the lowest score up: ties go to the lower class by lowest index.
        order = torch.sort(scores, stable=True).indices
        low = int(len(order) * self.low_share)
        return order[:low], order[low:]

    @property
    def formats(self) -> tuple[str, ...]:
        """The low one, then the high one."""
        return f"zip_cache{self.low_bits}", f"zip_cache{self.high_bits}"

    def classes(self, scores: Tensor, held: Tensor) -> Tensor:
        """The lowest by score of those that are plain, until ``low_share`` of all are low; see
        :meth:`PageCodes.classes`."""
        plain = (held < 0).nonzero().flatten()
        low = int(len(scores) * self.low_share) - int((held == 0).sum())
        classes = torch.full((len(scores),), -1)
        classes[plain] = 1
        order = torch.sort(scores[plain], stable=True).indices
        classes[plain[order[: max(low, 0)]]] = 0
        return classes


@dataclass(frozen=True)
class KeyChannelValueToken(PageCodes):
    """Keys by channel over ``group`` tokens, values by token over ``group`` channels; the last ``residual``
    tokens, and what does not fill a group before them, stay as they are. KIVI (arXiv 2402.02750)
    with the group and residual of its released code."""

    bits: int = 2
    group: int = 32
    residual: int = 32

    def __post_init__(self) -> None:
        if self.residual < 0:
            raise ArgumentError(f"residual is {self.residual}, expected at least 0")
        super().__post_init__()

    def codes(
        self, keys: Tensor, values: Tensor, scores: Tensor
    ) -> list[tuple[Tensor, Quantised, Quantised]]:
        """The oldest tokens in whole groups, see :meth:`PageCodes.codes`."""
        indices = torch.arange(self._sealed(len(keys)))
        return [
            (
                indices,
                encode(keys[indices], self.bits, tokens=self.group, channels=1),
                encode(values[indices], self.bits, channels=self.group),
            )
        ]

    def _sealed(self, tokens: int) -> int:
        return max(tokens - self.residual, 0) // max(self.group, 1) * self.group

    @property
    def formats(self) -> tuple[str, ...]:
        """One; pages have groups of 32, and another ``group`` raises ArgumentError."""
        if self.group != 32:
            raise ArgumentError(f"group is {self.group}, expected 32, the group of pages in codes")
        return (f"kivi{self.bits}",)

    def classes(self, scores: Tensor, held: Tensor) -> Tensor:
        """The oldest of those that are plain, in whole groups; see :meth:`PageCodes.classes`."""
        plain = (held < 0).nonzero().flatten()
        classes = torch.full((len(scores),), -1)
        classes[plain[: self._sealed(len(plain))]] = 0
        return classes


@dataclass(frozen=True)
class TokenBits(PageCodes):
    """Keys and values by token, a row of a head a block: int8 unless told otherwise."""

    bits: int = 8

    def codes(
        self, keys: Tensor, values: Tensor, scores: Tensor
    ) -> list[tuple[Tensor, Quantised, Quantised]]:
        """Everything as one part, see :meth:`PageCodes.codes`."""
        return [(torch.arange(len(keys)), encode(keys, self.bits), encode(values, self.bits))]

    @property
    def formats(self) -> tuple[str, ...]:
        """One."""
        return (f"int{self.bits}",)

    def classes(self, scores: Tensor, held: Tensor) -> Tensor:
        """All that are plain; see :meth:`PageCodes.classes`."""
        return torch.where(held < 0, 0, -1)
