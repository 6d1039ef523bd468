"""A tiny model and trainings of it that take a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hornbeam as hb
from hornbeam.training import AcceptanceTraining, HeadTraining
from tests import models

#: Small enough for tests, with several batches of texts, measurements and held-out texts.
QUICK: dict[str, Any] = {
    "steps": 4,
    "prompts": 24,
    "batch": 8,
    "tokens": 24,
    "vocabulary": 64,
    "step_tokens": 512,
    "every": 2,
    "acceptance": AcceptanceTraining(depth=2, rows=4, width=8, blocks=1, epochs=2),
}


def quick(**changes: Any) -> HeadTraining:
    """Settings of a training that takes a second."""
    return HeadTraining(**(QUICK | changes))


def tiny(model: Any = None) -> hb.LM:
    """A tiny model with a byte tokenizer, whose results repeat."""
    return hb.LM(models.llama() if model is None else model, models.byte_tokenizer(), profile="off")


def heads(folder: Path) -> dict[str, bytes]:
    """The bytes of what a training wrote to be used."""
    return {
        name: (folder / name).read_bytes()
        for name in ("feature_head.safetensors", "acceptance_head.safetensors")
    }


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return tiny()
