"""Muon, an optimizer for matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Muon", "optimizers"]


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is made orthogonal by a quintic iteration (Jordan et al. 2024), scaled to the
    update size of Adam (Liu et al. 2025, arXiv:2502.16982). As ``torch.optim.Muon``, but in float32: bfloat16
    products take thirty times as long on a processor without them."""

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": 0.95, "weight_decay": 0.05})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(state["momentum"], group["momentum"]))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(update, alpha=group["lr"] * 0.2 * math.sqrt(max(parameter.shape)))


def orthogonal(x: Tensor) -> Tensor:
    """``U V^T`` of the singular value decomposition of ``x``, roughly: singular values in [0.7, 1.2]."""
    tall = x.shape[0] > x.shape[1]
    x = (x.T if tall else x) / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


def optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of a model, AdamW for its vectors."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    return [Muon(matrices, rate), torch.optim.AdamW(vectors, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)]
