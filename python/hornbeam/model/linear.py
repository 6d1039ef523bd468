"""Runs a model's linear layers on :func:`hornbeam.ops.linear`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch.nn import Linear, Module, Parameter
from torch.nn.functional import linear as torch_linear

from hornbeam import _native
from hornbeam.ops.linear import max_native_rows

__all__ = ["use_native_linear"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def use_native_linear(model: Module, max_rows: int | None = None) -> int:
    """Sends few rows through the weight-streaming kernel from now on, and more to torch.

    Taken are modules of exactly the class :class:`torch.nn.Linear` with a contiguous float32, bfloat16 or
    float16 weight on the CPU. Left alone are subclasses (quantised, parametrised, low-rank) and modules
    whose ``forward`` was replaced. A taken module falls back to torch for a call under autograd, autocast
    or ``torch.compile``, and where its weight was exchanged for something else meanwhile. Hooks go on being
    called.

    The forwards of modules are set, so that this is for copies of a model's modules
    (:class:`hornbeam.model.shadow.Shadow`), not for a model that others use.

    Args:
        model: any module.
        max_rows: rows up to which the kernel is used. By default the number up to which it was measured
            faster, by the weight's type. Results have the same bits for any number of rows below the limit;
            torch's differ, so a limit that no call exceeds makes the model's output independent of how
            rows are batched.

    Returns:
        How many modules were taken.
    """
    plain = [module for module in model.modules() if _is_plain(module)]
    for module in plain:
        module.__dict__["forward"] = _forward(module, max_rows)
    return len(plain)


def _is_plain(module: Module) -> TypeGuard[Linear]:
    if type(module) is not Linear or "forward" in module.__dict__:
        return False
    weight = module._parameters.get("weight")
    return weight is not None and _is_usable(weight)


def _is_usable(weight: Parameter) -> bool:
    return (
        type(weight) is Parameter
        and weight.dtype in DTYPES
        and weight.device.type == "cpu"
        and weight.is_contiguous()
    )


def _forward(module: Linear, max_rows: int | None) -> Callable[[torch.Tensor], torch.Tensor]:
    parameters = module._parameters
    outputs, inputs = module.out_features, module.in_features
    known: Parameter | None = None
    limit = 0

    def forward(x: torch.Tensor) -> torch.Tensor:
        nonlocal known, limit
        # Checked by `_is_usable` whenever it changes; torch reports what is unusable.
        weight: Any = parameters["weight"]
        bias = parameters["bias"]
        if weight is not known:
            known, limit = weight, 0
            if weight is not None and _is_usable(weight) and weight.shape == (outputs, inputs):
                limit = max_native_rows(weight.dtype) if max_rows is None else max_rows
        if (
            type(x) is not torch.Tensor
            or x.numel() > limit * inputs
            or x.size(-1) != inputs
            or torch.is_grad_enabled()
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
            or x.dtype is not weight.dtype
            or not x.is_cpu
        ):
            return torch_linear(x, weight, bias)
        if not x.is_contiguous():
            x = x.contiguous()
        return _native.linear(x, weight, bias)

    return forward
