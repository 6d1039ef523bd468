"""What is measured: an operation of given sizes and type."""

from __future__ import annotations

import re
from typing import NamedTuple

from hornbeam.errors import ArgumentError

__all__ = ["Operation"]


class Operation(NamedTuple):
    """An operation that several kernels can do."""

    kind: str
    """``linear``, ``tree_attention`` or ``dense_attention``."""
    sizes: tuple[int, ...]
    """Of a linear layer outputs and inputs; of attention query heads, kv heads and head size."""
    dtype: str
    """Of weights, or of keys and values, as torch prints it after its own name."""

    @property
    def name(self) -> str:
        """As a profile's file has it, such as ``linear 1536x576 float32``."""
        return f"{self.kind} {'x'.join(map(str, self.sizes))} {self.dtype}"

    @classmethod
    def of(cls, name: str) -> Operation:
        """The operation of a :attr:`name`.

        Raises:
            ArgumentError: it is none.
        """
        found = re.fullmatch(r"([a-z_]+) (\d+(?:x\d+)*) ([a-z0-9]+)", name)
        if found is None:
            raise ArgumentError(f"the operation is {name!r}, expected kind, sizes and type")
        kind, sizes, dtype = found.groups()
        return cls(kind, tuple(map(int, sizes.split("x"))), dtype)
