"""Stateless operations on flat tensors; each can be used without the rest."""

from hornbeam.ops.verify import Verified, sample, verify

__all__ = ["Verified", "sample", "verify"]
