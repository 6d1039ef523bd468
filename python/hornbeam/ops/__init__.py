"""Operations on flat arrays, usable without a tree and without a model."""

from hornbeam.ops.rows import move_rows, write_rows

__all__ = ["move_rows", "write_rows"]
