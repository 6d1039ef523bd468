"""Turning keys that carry rotary embeddings from one position to another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["inverse_frequencies", "turn"]


def inverse_frequencies(model: Any) -> tuple[float, ...] | None:
    """Angles a position of a model's rotary embedding; None where it has none of the plain kind, whose
    angle is the position times a constant.

    Args:
        model: of transformers.
    """
    rotary = getattr(getattr(model, "base_model", model), "rotary_emb", None)
    frequencies = getattr(rotary, "inv_freq", None)
    if not isinstance(frequencies, Tensor) or frequencies.dim() != 1:
        return None
    if getattr(rotary, "rope_type", "default") in ("dynamic", "longrope"):
        return None
    return tuple(frequencies.double().tolist())


def turn(keys: Tensor, by: Tensor, frequencies: tuple[float, ...]) -> Tensor:
    """Rotates keys `[N, D]` on by `by [N]` positions; halves are paired as in Llama, and elements beyond
    twice the number of frequencies stay. Angles are found in float64, on the host, where ``by`` is.

    A key that was rotated for position `p` becomes the one for `p + by`, since rotations add up.

    Args:
        keys: `[N, D]`, any float type.
        by: `[N]`, positions, on the host.
        frequencies: angles a position.
    """
    half = len(frequencies)
    angles = by.double()[:, None] * torch.tensor(frequencies, dtype=torch.float64, device="cpu")
    cos, sin = angles.cos().to(keys.device), angles.sin().to(keys.device)
    low, high = keys[:, :half].double(), keys[:, half : 2 * half].double()
    turned = torch.cat([low * cos - high * sin, high * cos + low * sin], dim=1)
    return torch.cat([turned.to(keys.dtype), keys[:, 2 * half :]], dim=1)
