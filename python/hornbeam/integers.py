"""Integers that callers give as a list, an array or a tensor."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hornbeam.errors import ArgumentError

__all__ = ["integer_tensor"]


def integer_tensor(values: Any, name: str, dtype: torch.dtype = torch.int64) -> Tensor:
    """`values` as a tensor of an integer type, on their own device; copied where type or byte order differ.

    Args:
        values: list, array or tensor of any integer type.
        name: the argument's name, for errors.
        dtype: int32 or int64.

    Raises:
        ArgumentError: floats and truth values, which torch would round without a word, masked arrays, and
            numbers that `dtype` does not hold.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise ArgumentError(f"{name} is a masked array, expected one whose elements all count")
    if isinstance(values, np.ndarray):
        # torch shares an array's memory, but not every order, stride and permission.
        values = np.array(values, values.dtype.newbyteorder("="))
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{name} is not made of integers: {error}") from error
    if tensor.layout != torch.strided or tensor.is_meta:
        raise ArgumentError(f"{name} is {tensor.layout} on {tensor.device}, expected a tensor with elements")
    if tensor.dtype == dtype:
        return tensor
    if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool):
        raise ArgumentError(f"{name} is {tensor.dtype}, expected integers")
    converted = tensor.to(dtype)
    # Unsigned types of torch have few operations; a number above int64 has become negative.
    wrapped = (
        converted < 0 if tensor.dtype == torch.uint64 else converted.to(torch.int64) != tensor.to(torch.int64)
    )
    if bool(wrapped.any()):
        raise ArgumentError(f"{name} has a number that {dtype} does not hold")
    return converted
