"""Training of heads: :func:`train_head` makes a feature head for a model, and an acceptance head for that.

``hornbeam train-head`` is the same as a command; docs/decoding.md tells of both.
"""

from __future__ import annotations

from hornbeam.training.heads import TrainedHead, train_head
from hornbeam.training.settings import AcceptanceTraining, HeadTraining
from hornbeam.training.texts import read_prompts

__all__ = ["AcceptanceTraining", "HeadTraining", "TrainedHead", "read_prompts", "train_head"]
