"""Adaptive decoding for PyTorch causal language models."""
