"""Integers that callers give: one, or a list, an array or a tensor of them."""

import operator
import re
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hornbeam.errors import ArgumentError

__all__ = ["BYTE_UNITS", "byte_size", "integer_tensor", "whole_number"]

BYTE_UNITS = {"B": 1}
"""Bytes of each unit: powers of 1000 (KB to TB) and of 1024 (KiB to TiB)."""
for _power, _letter in enumerate("KMGT", 1):
    BYTE_UNITS[f"{_letter}B"] = 1000**_power
    BYTE_UNITS[f"{_letter}iB"] = 1024**_power


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
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")
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


def whole_number(value: Any, name: str, least: int = 0, most: int | None = None) -> int:
    """One integer of any kind: Python's, numpy's, or a tensor without dimensions.

    Args:
        value: what the caller gave.
        name: the argument's name, for errors.
        least: the smallest value that it may have.
        most: the greatest, if there is one.

    Raises:
        ArgumentError: it is no integer, or out of range.
    """
    expected = f"{least} or more" if most is None else f"{least} to {most}"
    is_bool = isinstance(value, (bool, np.bool_)) or getattr(value, "dtype", None) == torch.bool
    if not is_bool and hasattr(value, "__index__"):
        try:
            number = operator.index(value)
        except TypeError:  # a tensor or an array of another kind
            pass
        else:
            if number < least or (most is not None and number > most):
                raise ArgumentError(f"{name} is {number}, expected {expected}")
            return number
    raise ArgumentError(f"{name} is {value!r}, expected a whole number, {expected}")


def byte_size(size: int | str, name: str) -> int:
    """Bytes as a number, or as text such as "64MB" or "1GiB".

    Args:
        size: what the caller gave.
        name: the argument's name, for errors.

    Raises:
        ArgumentError: it is neither, or less than one byte.
    """
    if not isinstance(size, str):
        return whole_number(size, name, 1)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B)\s*", size)
    if match is None or match[2] not in BYTE_UNITS or Fraction(match[1]) * BYTE_UNITS[match[2]] < 1:
        raise ArgumentError(
            f'{name} is {size!r}, expected bytes as an int or as text such as "64MB" or "1GiB"'
        )
    return int(Fraction(match[1]) * BYTE_UNITS[match[2]])
