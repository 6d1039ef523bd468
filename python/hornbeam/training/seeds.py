"""Random numbers that depend on what they are for, never on what was drawn before: so a training that goes on
draws what it would have drawn."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["generator_of", "seed_of"]


def seed_of(seed: int, purpose: str, number: int = 0) -> int:
    """A seed below 2**63.

    Args:
        seed: of the training.
        purpose: what is drawn.
        number: of the step, the epoch or the like.
    """
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator_of(seed: int, purpose: str, number: int = 0) -> torch.Generator:
    """A generator on the CPU, seeded by :func:`seed_of`."""
    return torch.Generator().manual_seed(seed_of(seed, purpose, number))
