"""Adaptive decoding for PyTorch causal language models."""

from hornbeam.build import build_info

__all__ = ["build_info"]
