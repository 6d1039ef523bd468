"""A tiny model in a folder, and how a command is run on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hornbeam.cli.commands import app
from tests import models

Run = Callable[..., Any]


@pytest.fixture
def run() -> Run:
    """Runs the command line in this process; ``stdin`` is text or bytes."""

    def call(*arguments: str | Path, stdin: str | bytes | None = None) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model with a byte tokenizer, as a folder of safetensors."""
    path = tmp_path / "model"
    models.llama().save_pretrained(path)
    tokenizer = models.byte_tokenizer()
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(path)
    return path
