"""ETS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from hornbeam import _native
from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number
from hornbeam.search.policy.base import NativeSearch, Policy, Search

if TYPE_CHECKING:
    from hornbeam.search.path import Path

__all__ = ["Ets"]


@dataclass(frozen=True)
class Ets(Policy):
    """REBASE over the part of the tree that is worth holding (Hooper et al. 2025, arXiv 2502.13575). The
    leaves that are kept maximise, exactly, the sum of REBASE's shares, less ``cost_weight`` times what their
    paths cost over what all paths cost, and ``coverage_weight`` times the share of clusters of steps that are
    still covered.

    Attributes:
        width: children of the first round.
        balance: the temperature of REBASE's shares.
        cost_weight: of the cost; the authors' is 1.
        coverage_weight: of the clusters; the authors' is 1.5, 1.4 and 1.45 for a width of 16, 64 and 256.
        cost: what a node costs: ``"nodes"`` counts 1, as published; ``"bytes"`` counts those that the pages
            of its step take.
        clusters: what steps are told apart by: ``"ngrams"``, the runs of one and two tokens in them (ours),
            or a callable that gives an embedding of each of a list of paths, ``[paths, dimensions]`` (the
            authors' is a sentence encoder, of the last step's text).
        distance: steps are of one cluster up to this cosine distance, by average linkage; None is 0.05 for
            embeddings, as published, and 0.3 for runs of tokens (ours).
    """

    name: ClassVar[str] = "ets"

    width: int = 16
    balance: float = 0.2
    cost_weight: float = 1.0
    coverage_weight: float = 1.5
    cost: Literal["nodes", "bytes"] = "bytes"
    clusters: Literal["ngrams"] | Callable[[Sequence[Path]], Any] = "ngrams"
    distance: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.balance < float("inf"):
            raise ArgumentError(f"balance is {self.balance}, expected a positive number")
        for name in ("cost_weight", "coverage_weight"):
            weight = getattr(self, name)
            if not 0 <= weight <= 1000:
                raise ArgumentError(f"{name} is {weight}, expected a number from 0 to 1000")
        if self.cost not in ("nodes", "bytes"):
            raise ArgumentError(f"cost is {self.cost!r}, expected 'nodes' or 'bytes'")
        if self.clusters != "ngrams" and not callable(self.clusters):
            raise ArgumentError(f"clusters is {self.clusters!r}, expected 'ngrams' or a callable")
        if self.distance is not None and not 0 <= self.distance <= 2:
            raise ArgumentError(f"distance is {self.distance}, expected a number from 0 to 2")

    def notes(self, paths: Sequence[Path], kv_bytes: Sequence[int]) -> dict[str, Any]:
        """What the last steps of ``paths`` cost, ``kv_bytes`` if that is asked for, and what tells them
        apart."""
        found: dict[str, Any] = {}
        if self.cost == "bytes":
            found["costs"] = list(kv_bytes)
        if callable(self.clusters):
            features = torch.as_tensor(self.clusters(paths), dtype=torch.float32)
            if features.dim() != 2 or len(features) != len(paths) or not features.isfinite().all():
                raise ArgumentError(
                    f"clusters gave an array of shape {tuple(features.shape)} for {len(paths)} paths, "
                    "expected one row of finite numbers a path"
                )
            found["features"] = features.tolist()
        else:
            found["steps"] = [path.token_ids[path.step :] for path in paths]
        return found

    def open(self, seed: int) -> Search:
        """Begins a search."""
        width = whole_number(self.width, "width", 1)
        distance = self.distance
        if distance is None:
            distance = 0.05 if callable(self.clusters) else 0.3
        return NativeSearch(
            _native.SearchPolicy.ets(
                width, self.max_depth, self.balance, self.cost_weight, self.coverage_weight, distance
            )
        )
