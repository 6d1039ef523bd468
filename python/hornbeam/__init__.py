"""Adaptive decoding for PyTorch causal language models."""

from hornbeam import ops
from hornbeam.warp import Warp

__all__ = ["Warp", "ops"]
