"""Where documented code runs: the default model, loaded once, and a folder that it may write into."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hornbeam as hb
from tests.docs.blocks import ROOT

#: What a reader has before him who stands in a checkout. Code may write beside it, not into it.
COPIED = ("README.md", "docs")


@pytest.fixture(scope="session")
def lms(default_model: tuple[Any, Any]) -> list[hb.LM]:
    """Two over the same weights: a page may load a second one to draft with."""
    return [hb.LM(*default_model), hb.LM(*default_model)]


@pytest.fixture
def loaded_once(lms: list[hb.LM], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``hb.LM.from_pretrained("smollm2")`` gives one that all tests share, and then the other."""
    load, left = hb.LM.from_pretrained, list(lms)

    def shared(name: Any, **options: Any) -> hb.LM:
        is_shared = name == "smollm2" and not options and left
        return left.pop(0) if is_shared else load(name, **options)

    monkeypatch.setattr(hb.LM, "from_pretrained", shared)
    yield
    for lm in lms:
        lm.clear_cache()


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


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of commands: ``hornbeam`` and ``python`` are those of this checkout. One for all tests,
    so that the help of each command is asked for once."""
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
