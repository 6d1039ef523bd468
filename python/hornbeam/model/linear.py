"""Runs a model's linear layers on :func:`hornbeam.ops.linear`, or on torch's where that is faster."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeGuard

import torch
from torch.nn import Linear, Module, Parameter
from torch.nn.functional import linear as torch_linear

from hornbeam import _native
from hornbeam.errors import StateError
from hornbeam.machine.operation import Operation
from hornbeam.model.switch import Cells, Switch
from hornbeam.ops.linear import max_native_rows

__all__ = ["KERNELS", "use_native_linear"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: The kernels of a linear layer: ours, and torch's.
KERNELS = ("hornbeam", "torch")


def use_native_linear(model: Module, switch: Switch | None = None, *, only_ours: bool = False) -> int:
    """Sends rows through our kernel or torch's from now on, by their number.

    Taken are modules of exactly the class :class:`torch.nn.Linear` with a contiguous float32, bfloat16 or
    float16 weight on the CPU. Left alone are subclasses (quantised, parametrised, low-rank) and modules
    whose ``forward`` was replaced. A taken module falls back to torch for a call under autograd, autocast
    or ``torch.compile``, and where its weight was exchanged for something else meanwhile. Hooks go on being
    called.

    The forwards of modules are set, so that this is for copies of a model's modules
    (:class:`hornbeam.model.shadow.Shadow`), not for a model that others use.

    Args:
        model: any module.
        switch: says which kernel runs, and measures; one of its own, which knows nothing, by default.
        only_ours: our kernel runs whatever the number of rows, so that a row has the same bits beside any
            others, and what it cannot do is refused by a StateError when it is called.

    Returns:
        How many modules were taken.
    """
    switch = Switch() if switch is None else switch
    plain = [module for module in model.modules() if _is_plain(module)]
    switch.operations.clear()
    for module in plain:
        weight: Any = module._parameters["weight"]
        switch.operations[_operation(weight)] += 1
        _cells(switch, weight)  # what the profile says wrongly is told here
        module.__dict__["forward"] = _forward(module, switch, only_ours)
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


def _operation(weight: torch.Tensor) -> Operation:
    return Operation("linear", tuple(weight.shape), str(weight.dtype).removeprefix("torch."))


def _cells(switch: Switch, weight: torch.Tensor) -> Cells:
    limit = max_native_rows(weight.dtype)

    def default(rows: int) -> str:
        return KERNELS[rows > limit]

    return switch.cells(_operation(weight), KERNELS, default)


def _forward(module: Linear, switch: Switch, only_ours: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    parameters = module._parameters
    outputs, inputs = module.out_features, module.in_features
    known: Parameter | None = None
    cells: Cells | None = None

    def forward(x: torch.Tensor) -> torch.Tensor:
        nonlocal known, cells
        # Checked by `_is_usable` whenever it changes; torch reports what is unusable.
        weight: Any = parameters["weight"]
        bias = parameters["bias"]
        if weight is not known:
            known, cells = weight, None
            is_as_said = weight is not None and weight.shape == (outputs, inputs) and inputs > 0
            if is_as_said and _is_usable(weight):
                cells = _cells(switch, weight)
        if (
            cells is None
            or type(x) is not torch.Tensor
            or x.size(-1) != inputs
            or torch.is_grad_enabled()
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
            or x.dtype is not weight.dtype
            or not x.is_cpu
        ):
            if only_ours:
                raise StateError(
                    "a linear layer is called with other types or modes of torch than its weight's, or its "
                    "weight was exchanged: batch_invariant=True has no kernel for it"
                )
            return torch_linear(x, weight, bias)
        if not only_ours:
            rows = x.numel() // inputs
            cell = cells.at(rows)
            cell.calls -= 1
            if cell.calls < 0:
                x = x.contiguous()
                ours = partial(_native.linear, x, weight, bias)
                theirs = partial(torch_linear, x, weight, bias)
                return cells.timed(cell, rows, dict(zip(KERNELS, (ours, theirs), strict=True)))
            if not cell.is_first:
                return torch_linear(x, weight, bias)
        if not x.is_contiguous():
            x = x.contiguous()
        return _native.linear(x, weight, bias)

    return forward
