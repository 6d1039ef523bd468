"""PrefixKV: every layer keeps the same share of its score."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.keep.split.base import Split

__all__ = ["GlobalPrefix"]


@dataclass(frozen=True)
class GlobalPrefix(Split):
    """Every layer keeps the same share of its score: the greatest that the budget allows. PrefixKV (arXiv
    2412.03409), whose bisection stops within five tokens and whose code follows a saved
    ``profile``: one weight a layer, made by :meth:`calibrate`.

    Args:
        profile: a weight a layer; found from the scores by default.
    """

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
        """Writes the profile as JSON.

        Args:
            path: the file.
        """
        if self.profile is None:
            raise ArgumentError("profile is None, expected one made by calibrate")
        Path(path).write_text(json.dumps({"profile": self.profile}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GlobalPrefix:
        """Reads what :meth:`save` wrote.

        Args:
            path: the file.
        """
        content: Any = json.loads(Path(path).read_text())
        if not isinstance(content, dict) or not isinstance(content.get("profile"), list):
            raise ArgumentError(f"{path} holds no profile, expected what save wrote")
        return cls(tuple(content["profile"]))
