"""Where documented code runs: the default model, loaded once, and a folder that it may write into."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hornbeam.model import loading
from tests.docs.blocks import ROOT

#: What a reader has before him who stands in a checkout. Code may write beside it, not into it.
COPIED = ("README.md", "docs")


@pytest.fixture
def loaded_once(default_model: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """``hb.LM.from_pretrained("smollm2")`` takes the model that the tests share."""
    shared, load = loading.resolve("smollm2"), loading.load

    def cached(path: Any, dtype: Any = "auto", device: Any = None) -> Any:
        if path == shared and dtype == torch.float32 and device in (None, "cpu"):
            return default_model
        return load(path, dtype=dtype, device=device)

    monkeypatch.setattr(loading, "load", cached)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: this checkout, as a copy where documented code may write."""
    for entry in ROOT.iterdir():
        if entry.name not in COPIED:
            (tmp_path / entry.name).symlink_to(entry)
        elif entry.is_dir():
            shutil.copytree(entry, tmp_path / entry.name)
        else:
            shutil.copy(entry, tmp_path / entry.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shell(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of commands: ``hornbeam`` and ``python`` are those of this checkout."""
    folder = tmp_path_factory.mktemp("bin")
    for name, words in (("python", ""), ("hornbeam", "-m hornbeam ")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n', encoding="utf-8")
        (folder / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "python"),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }
