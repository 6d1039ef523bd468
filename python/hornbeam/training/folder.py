"""The folder of a training: what it is of, what was recorded, where it has come to, and what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from hornbeam.errors import ArgumentError
from hornbeam.speculation.head_file import ACCEPTANCE_HEAD, FEATURE_HEAD
from hornbeam.whole_file import PARTIAL, replace_text

__all__ = ["HeadFolder"]

FORMAT = "hornbeam-head-training-1"


class HeadFolder:
    """The files of one training.

    Args:
        path: of the folder, which need not exist yet.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        self.feature_head = self.path / FEATURE_HEAD
        self.acceptance_head = self.path / ACCEPTANCE_HEAD
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.log = self.path / "log.json"
        self._run = self.path / "run.json"

    def states(self, number: int) -> Path:
        """The file of a batch of recorded texts."""
        return self.path / "states" / f"{number:04d}.safetensors"

    def check(self) -> None:
        """Refuses a folder that is of something else. Writes nothing.

        Raises:
            ArgumentError: it is a file, or holds files and none of them says that it is of a training.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ArgumentError(f"{self.path} is a file, expected a folder to write into")
        if not self._run.exists():
            if found := sorted(file.name for file in self._files()):
                raise ArgumentError(
                    f"{self.path} holds other files ({', '.join(found[:3])}), expected a new folder, or one "
                    "that hornbeam train-head wrote"
                )
            return
        self._read_run()

    def open(self, run: Mapping[str, Any]) -> None:
        """Begins a training, or goes on with one.

        Args:
            run: by name, what it is of: ``model``, ``settings``, ``prompts`` and ``start``.

        Raises:
            ArgumentError: the folder is of another model or other settings.
            OSError: it cannot be written.
        """
        self.check()
        (self.path / "states").mkdir(parents=True, exist_ok=True)
        if not self._run.exists():
            _replace(self._run, {"format": FORMAT, **run})
            return
        for left in (*self.path.glob(f".*{PARTIAL}"), *self.path.glob(f"states/.*{PARTIAL}")):
            left.unlink(missing_ok=True)
        found, wanted = self._read_run(), json.loads(json.dumps(run))
        named = found["model"].get("name")
        if found["model"].get("weights") != wanted["model"]["weights"]:
            raise ArgumentError(
                f"{self.path} holds the head of another model ({named}), or of this one in another type; "
                "expected another folder, or that model"
            )
        for name, value in wanted["settings"].items():
            if (before := found["settings"].get(name)) != value:
                raise ArgumentError(
                    f"{self.path} holds a training whose {name} is {before}, and now it is {value}; expected "
                    "the same, or another folder"
                )
        for name, what in (("prompts", "on other prompts"), ("start", "that began with another head")):
            if found.get(name) != wanted[name]:
                raise ArgumentError(
                    f"{self.path} holds a training {what}, expected the same, or another folder"
                )

    def write_log(self, report: Mapping[str, Any]) -> None:
        """Says that the training is over, and all about it."""
        _replace(self.log, report)

    def read_log(self) -> dict[str, Any] | None:
        """What :meth:`write_log` wrote; None where the training is not over.

        Raises:
            ArgumentError: the file is damaged.
        """
        return _read(self.log) if self.log.exists() else None

    def reopen(self) -> None:
        """Says that the training is not over."""
        self.log.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """What is in the folder, without what a killed process has left of a file."""
        if not self.path.exists():
            return []
        files = [file for file in self.path.iterdir() if file.suffix != PARTIAL]
        # The folder of states is made before the file that says what it is for.
        return [file for file in files if not (file.name == "states" and _is_empty(file))]

    def _read_run(self) -> dict[str, Any]:
        found = _read(self._run)
        if found.get("format") != FORMAT:
            raise ArgumentError(f"the format of {self._run} is {found.get('format')!r}, expected {FORMAT!r}")
        if not isinstance(found.get("model"), dict) or not isinstance(found.get("settings"), dict):
            raise ArgumentError(f"{self._run} does not say what model and settings it is of")
        return found


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArgumentError(f"{file} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ArgumentError(f"{file} is damaged: it holds a {type(found).__name__}, expected an object")
    return found


def _replace(file: Path, value: Mapping[str, Any]) -> None:
    replace_text(file, json.dumps(value, indent=1) + "\n")
