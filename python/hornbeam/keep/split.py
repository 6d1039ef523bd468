"""Who gets how much of a budget. Every split sums to it exactly."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from hornbeam import _native, cuda
from hornbeam.errors import ArgumentError
from hornbeam.keep.factor import Factor
from hornbeam.tensor_file import read_tensors

__all__ = ["AcrossHeads", "GlobalPrefix", "HeadScores", "LayerGroups", "Pyramid", "Split", "Uniform"]


@dataclass(frozen=True)
class Split(Factor):
    """Base of all splits."""

    kind: ClassVar[str] = "split"

    def budgets(self, scores: Tensor, total: int, protected: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
        """Tokens for each plane, int32 `[L, Hk]`, from scores `[L, Hk, N]` of one sequence. They sum to
        ``total``, or to `L * Hk * N` where that is less."""
        return self.select(scores, total, protected, 1)[0]

    def select(
        self, scores: Tensor, total: int, protected: tuple[int, int, int], unit: int
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`budgets`, and which tokens stay, bool `[L, Hk, N]`, where the scores are.

        Args:
            scores: `[L, Hk, N]`, of one sequence.
            total: tokens that stay, over all planes.
            protected: as :attr:`hornbeam.keep.Score.protected`.
            unit: as :attr:`hornbeam.keep.Score.unit`: tokens that stay or go together.
        """
        layers, heads, tokens = scores.shape
        counts = torch.full((layers, heads), tokens, dtype=torch.int32)
        positions = torch.arange(tokens, dtype=torch.int32).repeat(layers * heads)
        if cuda.is_on_device(scores):
            budgets, kept = cuda.select_keys(
                self.spec(), scores.flatten(), counts.numpy(), positions.numpy(), total, protected, unit
            )
            return budgets, kept.view(scores.shape)
        scores = scores.to("cpu", torch.float32).contiguous()
        budgets = torch.empty(layers, heads, dtype=torch.int32)
        kept = torch.empty(scores.numel(), dtype=torch.bool)
        _native.keep_select(
            self.spec(), scores.flatten(), counts, positions, total, protected, unit, budgets, kept
        )
        return budgets, kept.view(scores.shape)


@dataclass(frozen=True)
class Uniform(Split):
    """The same to every plane."""

    native: ClassVar[str] = "uniform"


@dataclass(frozen=True)
class Pyramid(Split):
    """Budgets fall linearly from the first layer to the last, which gets ``1/beta`` of the mean, beyond what
    is protected. PyramidKV (arXiv 2406.02069). A layer whose share exceeds the sequence leaves the excess
    to the others. With ``slope="fitted"``, as in kvpress, the pyramid is built on the whole budget; its slope
    is taken anew where the first layer's share exceeds what it holds beside the protected tokens, and all
    layers get the same where the last layer's share would not hold these then."""

    native: ClassVar[str] = "pyramid"
    beta: int = 20
    slope: Literal["fixed", "fitted"] = "fixed"


@dataclass(frozen=True)
class GlobalPrefix(Split):
    """Every layer keeps the same share of its score: the greatest that the budget allows. PrefixKV (arXiv
    2412.03409), whose bisection stops within five tokens and whose code follows a saved
    ``profile``: one weight a layer, made by :meth:`calibrate`."""

    native: ClassVar[str] = "global_prefix"
    profile: tuple[float, ...] | None = None

    @classmethod
    def calibrate(
        cls, samples: list[Tensor], share: float, protected: tuple[int, int, int] = (0, 0, 0)
    ) -> GlobalPrefix:
        """A split that follows the mean of what the online split gives to each layer.

        Args:
            samples: scores `[L, Hk, N]`, one a sequence; N may differ.
            share: of all tokens, in (0, 1], that is kept.
            protected: as :attr:`hornbeam.keep.Score.protected`.
        """
        if not samples or not 0 < share <= 1:
            raise ArgumentError(f"share is {share} of {len(samples)} samples, expected (0, 1] of at least 1")
        online = cls()
        shares = [
            online.budgets(s, int(share * s.numel()), protected).double().mean(1) / s.shape[2]
            for s in samples
        ]
        return cls(tuple(torch.stack(shares).mean(0).tolist()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the profile as JSON."""
        if self.profile is None:
            raise ArgumentError("profile is None, expected one made by calibrate")
        Path(path).write_text(json.dumps({"profile": self.profile}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GlobalPrefix:
        """Reads what :meth:`save` wrote."""
        content: Any = json.loads(Path(path).read_text())
        if not isinstance(content, dict) or not isinstance(content.get("profile"), list):
            raise ArgumentError(f"{path} holds no profile, expected what save wrote")
        return cls(tuple(content["profile"]))


@dataclass(frozen=True)
class AcrossHeads(Split):
    """Heads of a layer compete for its equal share by score; ``alpha`` is the safeguard. AdaKV (arXiv
    2407.11550). "mix" blends the outcome with equal shares, as the authors' code does;
    "reserve" sets the top ``alpha`` of an equal share aside for every head, as kvpress does."""

    native: ClassVar[str] = "across_heads"
    alpha: float = 0.2
    blend: Literal["mix", "reserve"] = "mix"


@dataclass(frozen=True)
class HeadScores(Split):
    """Budgets follow given scores `[L][Hk]`, beyond what is protected and a ``floor`` of the mean. SparseMM
    (arXiv 2506.05344)."""

    native: ClassVar[str] = "head_scores"
    scores: tuple[tuple[float, ...], ...] = ()
    floor: float = 0.1

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the scores and the floor as safetensors."""
        from safetensors.torch import save_file

        tensors = {"head_scores": torch.tensor(self.scores, dtype=torch.float64)}
        save_file(tensors, path, metadata={"floor": repr(self.floor)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HeadScores:
        """Reads what :meth:`save` wrote.

        Raises:
            ArgumentError: ``path`` is no such file.
            MissingExtra: safetensors is not installed.
        """
        tensors, metadata = read_tensors(path, "path")
        if "head_scores" not in tensors:
            raise ArgumentError(f"{path} holds no head_scores, expected what save wrote")
        scores, floor = tensors["head_scores"], float(metadata.get("floor", 0.1))
        return cls(tuple(tuple(row) for row in scores.tolist()), floor)

    @classmethod
    def from_query_heads(cls, scores: Tensor, num_kv_heads: int, floor: float = 0.1) -> HeadScores:
        """From scores `[L, H]` of query heads, summed over the heads of a group as in the paper's code."""
        if scores.dim() != 2 or num_kv_heads < 1 or scores.shape[1] % num_kv_heads:
            raise ArgumentError(f"scores have shape {list(scores.shape)}, expected [L, G * {num_kv_heads}]")
        grouped = scores.double().unflatten(1, (num_kv_heads, -1)).sum(2)
        return cls(tuple(tuple(layer) for layer in grouped.tolist()), floor)


@dataclass(frozen=True)
class LayerGroups(Split):
    """``size`` consecutive layers keep what the first of them says; budgets fall linearly over groups, the
    last getting ``size / beta`` of the mean. WindowKV (arXiv 2503.17922)."""

    native: ClassVar[str] = "layer_groups"
    size: int = 8
    beta: int = 14
