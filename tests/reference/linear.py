"""The linear layer in float64, the oracle of its implementations."""

from __future__ import annotations

import torch


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``y[..., n] = sum over k of x[..., k] * weight[n, k]``, plus ``bias[n]``, in float64."""
    y = (x.double().unsqueeze(-2) * weight.double()).sum(-1)
    return y if bias is None else y + bias.double()


def tolerance(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A bound on the error of each output: sums in float32, then one rounding to the type of ``x``.

    A sum of K products, in any order, errs by at most ``(K + 1) * u * sum |x w|`` to first order, with
    ``u = 2^-24`` (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
    """
    magnitude = linear(x.abs(), weight.abs(), None if bias is None else bias.abs())
    rounding = linear(x, weight, bias).abs() * torch.finfo(x.dtype).eps
    return (x.shape[-1] + 2) * 2.0**-24 * magnitude + rounding + torch.finfo(x.dtype).smallest_normal
