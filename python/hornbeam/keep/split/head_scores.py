"""SparseMM: budgets by given scores of heads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.keep.split.base import Split
from hornbeam.tensor_file import read_tensors, write_tensors

__all__ = ["HeadScores"]


@dataclass(frozen=True)
class HeadScores(Split):
    """Budgets follow given scores `[L][Hk]`, beyond what is protected and a ``floor`` of the mean. SparseMM
    (arXiv 2506.05344).

    Args:
        scores: `[L][Hk]`, one a kv head of each layer, not negative.
        floor: the share of the mean budget that every head is sure of, 0 to 1.
    """

    native: ClassVar[str] = "head_scores"
    scores: tuple[tuple[float, ...], ...] = ()
    floor: float = 0.1

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the scores and the floor as safetensors.

        Args:
            path: the file.
        """
        tensors = {"head_scores": torch.tensor(self.scores, dtype=torch.float64, device="cpu")}
        write_tensors(path, tensors, {"floor": repr(self.floor)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HeadScores:
        """Reads what :meth:`save` wrote.

        Args:
            path: the file.

        Raises:
            ArgumentError: ``path`` is no such file.
            MissingExtra: safetensors is not installed.
        """
        tensors, metadata = read_tensors(path, "path")
        if "head_scores" not in tensors:
            raise ArgumentError(f"{path} holds no head_scores, expected what save wrote")
        scores = tensors["head_scores"]
        if scores.dim() != 2:
            raise ArgumentError(f"{path}: head_scores has the shape {list(scores.shape)}, expected [L, Hk]")
        try:
            floor = float(metadata.get("floor", "0.1"))
        except ValueError:
            raise ArgumentError(f"{path}: floor is {metadata['floor']!r}, expected a number") from None
        return cls(tuple(tuple(row) for row in scores.tolist()), floor)

    @classmethod
    def from_query_heads(cls, scores: Tensor, num_kv_heads: int, floor: float = 0.1) -> HeadScores:
        """From scores `[L, H]` of query heads, summed over the heads of a group as in the paper's code.

        Args:
            scores: `[L, H]`, not negative.
            num_kv_heads: kv heads of a layer; H is a multiple.
            floor: as in the class.
        """
        if scores.dim() != 2 or num_kv_heads < 1 or scores.shape[1] % num_kv_heads:
            raise ArgumentError(f"scores have shape {list(scores.shape)}, expected [L, G * {num_kv_heads}]")
        grouped = scores.double().unflatten(1, (num_kv_heads, -1)).sum(2)
        return cls(tuple(tuple(layer) for layer in grouped.tolist()), floor)
