"""Which kernel runs each operation, as it stood when a request began."""

from __future__ import annotations

from collections.abc import Mapping

from hornbeam.machine.operation import Operation

__all__ = ["Kernels"]


class Kernels:
    """The chosen kernels by operation and bucket of rows; it never changes.

    A request keeps one from its beginning to its end, so that what is learned meanwhile does not change how
    its rows are rounded.
    """

    def __init__(self, chosen: Mapping[tuple[Operation, int], str]) -> None:
        self._chosen = dict(chosen)

    def of(self, operation: Operation, bucket: int, default: str) -> str:
        """The kernel for an operation at the row counts of a bucket; ``default`` where none was measured."""
        return self._chosen.get((operation, bucket), default)
