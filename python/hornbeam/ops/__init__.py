"""Operations on flat arrays, usable without a tree and without a model."""

from hornbeam.ops.attention import tree_attention
from hornbeam.ops.rows import move_rows, write_rows

__all__ = ["move_rows", "tree_attention", "write_rows"]
"""Stateless operations on flat tensors; each can be used without the rest."""

from hornbeam.ops.verify import Verified, sample, verify

__all__ = ["Verified", "sample", "verify"]
