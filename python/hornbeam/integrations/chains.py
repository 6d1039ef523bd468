"""What the adapters share: the chain rule on probabilities, over tensors of any device, and checks.

Only the draft's own entries and one row a sequence are gathered; no tensor of the size of the
probabilities is made. Draws come from torch's generators, as the stacks that call it expect.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError, ShapeError

__all__ = ["check", "count_accepted", "draw", "residual", "token_probs"]


def check(name: str, tensor: Tensor, shape: Sequence[int | None], dtype: torch.dtype | None = None) -> None:
    """Refuses a tensor of another shape (None stands for any size) or dtype."""
    fits = tensor.dim() == len(shape) and all(
        want is None or want == have for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ShapeError(f"{name} has shape {list(tensor.shape)}, expected [{expected}]")
    if dtype is not None and tensor.dtype != dtype:
        raise ShapeError(f"{name} is {tensor.dtype}, expected {dtype}")


def check_tokens(name: str, tokens: Tensor, vocab_size: int) -> None:
    """Refuses ids outside of the vocabulary."""
    if tokens.numel() and not bool(((tokens >= 0) & (tokens < vocab_size)).all()):
        bad = tokens[(tokens < 0) | (tokens >= vocab_size)].flatten()[0].item()
        raise ArgumentError(f"{name} holds token id {bad}, expected 0 to {vocab_size - 1}")


def token_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """The softmax of ``logits [..., V]`` at ``tokens [...]`` alone, float32."""
    logits = logits.float()
    picked = logits.gather(-1, tokens[..., None].long())[..., 0]
    return (picked - logits.logsumexp(-1)).exp()


def count_accepted(target: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
    """How many tokens of each chain a target keeps: ``u q < p`` up to the first that fails, so a token
    without target mass never passes. ``target``, ``draft`` (probabilities of the tokens) and ``uniforms`` are
    ``[..., K]``; returns int64 ``[...]``."""
    return (uniforms * draft < target).long().cumprod(-1).sum(-1)


def residual(target: Tensor, draft: Tensor) -> Tensor:
    """``max(target - draft, 0)`` of probabilities ``[..., V]``, not normalised; ``target`` itself where
    rounding left nothing."""
    rest = (target - draft).clamp(min=0)
    return torch.where(rest.sum(-1, keepdim=True) > 0, rest, target)


def draw(mass: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One index a row of ``mass [B, V]``, in proportion to it: int64 ``[B]``."""
    if not bool((torch.isfinite(mass).all(-1) & (mass.sum(-1) > 0)).all()):
        bad = (~(torch.isfinite(mass).all(-1) & (mass.sum(-1) > 0))).nonzero()[0, 0].item()
        raise ArgumentError(f"row {bad} of the target holds no finite positive mass to draw from")
    return torch.multinomial(mass, 1, generator=generator)[:, 0]
