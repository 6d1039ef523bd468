"""Fixtures that several test files share."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def default_model() -> tuple[Any, Any]:
    """The default model in float32 and its tokenizer; converted on a machine's first run."""
    import torch

    from hornbeam import models

    return models.load(models.resolve("smollm2"), dtype=torch.float32)
