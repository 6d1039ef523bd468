"""A feature head from its definition: the whole text again for every guess, no cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def guess(
    tensors: dict[str, Tensor],
    settings: dict[str, Any],
    matrices: tuple[Tensor, Tensor],
    tokens: Sequence[int],
    hidden: Tensor,
    path: Sequence[int] = (),
    missing: Sequence[int] = (),
) -> Tensor:
    """Logits over the draft vocabulary for what follows ``tokens`` and then ``path``.

    ``matrices`` are the target's input and output embeddings; ``hidden`` its states ``[n - 1, taps, H]`` of
    all but the last of the ``n`` tokens, which are certain; those of ``path`` are guesses. Of the tokens at
    the positions ``missing`` there are no keys.
    """
    inputs, outputs = (matrix.double() for matrix in matrices)
    weight = {name.removesuffix(".weight"): value.double() for name, value in tensors.items()}
    taps = normal(hidden.double(), settings).flatten(1)
    features = list(taps @ weight["features"].T)
    following = list(tokens[1:])
    result = layer(weight, settings, inputs[following], torch.stack(features), missing)
    for token in path:
        features.append(result[-1])
        following.append(token)
        result = layer(weight, settings, inputs[following], torch.stack(features), missing)
    last = normal(result[-1], settings) * weight["output_norm"]
    return outputs[tensors["draft_ids"].long()] @ last


def normal(x: Tensor, settings: dict[str, Any]) -> Tensor:
    """RMS normalisation without a weight."""
    return x / (x.pow(2).mean(dim=-1, keepdim=True) + settings["eps"]).sqrt()


def layer(
    weight: dict[str, Tensor],
    settings: dict[str, Any],
    token: Tensor,
    feature: Tensor,
    missing: Sequence[int] = (),
) -> Tensor:
    """All rows at once: what the head puts out for each."""
    both = torch.cat([normal(token, settings), normal(feature, settings)], dim=1)
    residual = both @ weight["fuse"].T
    x = normal(residual, settings) * weight["attention_norm"]
    size, groups = settings["head_dim"], settings["heads"] // settings["kv_heads"]
    mixed = []
    for head in range(settings["heads"]):
        own, shared = (
            slice(head * size, head * size + size),
            slice(head // groups * size, head // groups * size + size),
        )
        q = turned(x @ weight["q"][own].T, settings)
        k = turned(x @ weight["k"][shared].T, settings)
        later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        later[:, list(missing)] = True
        later.fill_diagonal_(False)  # a row without a key is nobody's, and sees itself here
        scores = (q @ k.T / size**0.5).masked_fill(later, -torch.inf)
        mixed.append(scores.softmax(dim=1) @ (x @ weight["v"][shared].T))
    residual = residual + torch.cat(mixed, dim=1) @ weight["o"].T
    x = normal(residual, settings) * weight["mlp_norm"]
    gate = x @ weight["gate"].T
    return residual + (gate * gate.sigmoid() * (x @ weight["up"].T)) @ weight["down"].T


def turned(x: Tensor, settings: dict[str, Any]) -> Tensor:
    """Rotary positions of one head: row ``i`` is at position ``i``; the halves of a head are the parts of
    complex numbers."""
    half = x.shape[1] // 2
    speed = settings["rope_theta"] ** (-torch.arange(half).double() / half)
    angle = torch.arange(len(x)).double()[:, None] * speed
    z = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], dim=1)
