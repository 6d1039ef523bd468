"""What all reductions declare, and what they make of a plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hornbeam import _native
from hornbeam.cuda.merge import Merge, MergeRule
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.keep.factor import Factor

__all__ = ["Reduce", "Reduced"]


@dataclass(frozen=True)
class Reduced:
    """One plane afterwards: ``kept``, int64 `[K]`, the indices that stay, ascending, and keys and values
    `[K, D]` as attention sees them, in float32. ``num_bytes`` is what they take where they are quantised,
    else None.

    Args:
        kept: int64 `[K]`, the indices that stay, ascending.
        keys: float32 `[K, D]`.
        values: float32 `[K, D]`.
        merge: the weights, where keys or values were merged.
        num_bytes: what they take where they are in codes.
    """

    kept: Tensor
    keys: Tensor
    values: Tensor
    merge: Merge | None = None
    num_bytes: int | None = None


@dataclass(frozen=True)
class Reduce(Factor):
    """Base of all reductions. One of your own overrides :meth:`reduce`."""

    kind: ClassVar[str] = "reduce"
    method: ClassVar[str] = "reduce"
    #: Whether kept keys go into pages of codes, by :attr:`formats` and :meth:`classes`.
    stores_codes: ClassVar[bool] = False

    @property
    def changes_kept(self) -> bool:
        """Whether keys or values that stay are others afterwards, so that they have to be written anew."""
        return True

    @property
    def merge_rule(self) -> MergeRule | None:
        """How the kernels of :mod:`hornbeam.cuda.merge` do the same on a device; None where they cannot."""
        return None

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats of pages that :meth:`classes` chooses from, see :func:`hornbeam.ops.page_formats`."""
        return ()

    def classes(self, scores: Tensor, held: Tensor) -> Tensor:
        """Which of :attr:`formats` each kept key of a plane shall have.

        Args:
            scores: `[K]`, in order of position.
            held: int64 `[K]`: -1 for a plain key; what is in codes already has its class, or any other
                number, and is passed over: nothing is encoded twice.

        Returns:
            int64 `[K]`; -1 stays plain.
        """
        return torch.full((len(scores),), -1, device="cpu")

    def reduce(self, keys: Tensor, values: Tensor, scores: Tensor, kept: Tensor) -> Reduced:
        """Makes the new keys and values of one plane.

        Args:
            keys: `[N, D]`, as they lie in the cache. A reduction in Python gets float32 on the CPU, also for
                values and scores.
            values: `[N, D]`.
            scores: `[N]`.
            kept: `[K]`, ascending indices.

        Returns:
            The plane with the same ``kept``.

        Raises:
            ShapeError: shapes disagree.
            ArgumentError: ``kept`` has an index that is out of range or not above the one before it.
        """
        self.require_method()
        keys, values, scores = (
            x.detach().to("cpu", torch.float32).contiguous() for x in (keys, values, scores)
        )
        indices = kept.to("cpu", torch.int32).contiguous()
        count, evicted = len(indices), max(len(scores) - len(indices), 0)
        k, v = (torch.empty(count, keys.shape[-1], dtype=torch.float32, device="cpu") for _ in range(2))
        targets = torch.empty(evicted, dtype=torch.int32, device="cpu")
        weights, own = (torch.empty(size, dtype=torch.float32, device="cpu") for size in (evicted, count))
        _native.keep_reduce(self.spec(), keys, values, scores, indices, k, v, targets, weights, own)
        return Reduced(indices.long(), k, v, Merge(targets, weights, own))

    def evaluate(self, keys: Tensor, values: Tensor, scores: Tensor, kept: Tensor) -> Reduced:
        """What :meth:`reduce` gives of ``keys``, ``values``, ``scores`` and ``kept``, checked where a
        subclass in Python gives it.

        Raises:
            ShapeError: the keys or values that it returns are not `[K, D]`.
            ArgumentError: it returns no :class:`Reduced`, or one with another ``kept``.
        """
        if self.is_native or self.stores_codes:
            return self.reduce(keys, values, scores, kept)
        name, kept = type(self).__name__, kept.cpu()
        k, v, s = (x.detach().to("cpu", torch.float32) for x in (keys, values, scores))
        found = self.reduce(k, v, s, kept)
        if not isinstance(found, Reduced):
            raise ArgumentError(f"{name}.reduce gave {type(found).__name__}, expected hornbeam.keep.Reduced")
        for part in (found.keys, found.values):
            if part.shape != (len(kept), keys.shape[1]):
                shape = [len(kept), keys.shape[1]]
                raise ShapeError(f"{name}.reduce gave shape {list(part.shape)}, expected {shape}")
        if not torch.equal(found.kept.cpu().long(), kept.long()):
            raise ArgumentError(f"{name}.reduce kept other indices, expected those that it was given")
        return found
