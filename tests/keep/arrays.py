"""Random caches for tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def cache(
    layers: int, batch: int, heads: int, group: int, tokens: int, rows: int, dim: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values `[L, B, Hk, N, D]` and queries `[L, B, H, W, D]` in float32."""
    random = np.random.default_rng(seed)

    def noise(heads: int, rows: int) -> Tensor:
        return torch.from_numpy(random.standard_normal((layers, batch, heads, rows, dim))).float()

    return noise(heads, tokens), noise(heads, tokens), noise(heads * group, rows)
