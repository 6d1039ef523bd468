"""Adaptive decoding for PyTorch causal language models."""

from hornbeam import ops
from hornbeam.tree import Branch, PrefixTree, Step

__all__ = ["Branch", "PrefixTree", "Step", "ops"]
