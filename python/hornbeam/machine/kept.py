"""Profiles that are kept from process to process, one file for a machine and a model's shape.

The name of a file is a digest of all facts that its figures depend on (:mod:`hornbeam.machine.identity`), and
the facts stand in it. What one process has learned is written while nothing is under way, at most once in
:data:`SECONDS`, and at the end of the process.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

from hornbeam.errors import ArgumentError
from hornbeam.machine import file as profile_file
from hornbeam.machine.folder import cache_folder
from hornbeam.machine.identity import digest
from hornbeam.machine.profile import Profile

__all__ = ["SECONDS", "VARIABLE", "KeptProfile", "is_wanted", "kept_profile", "profiles_folder"]

VARIABLE = "HORNBEAM_PROFILE"
"""Where it is ``off``, nothing is measured beside what runs, nothing is read and nothing kept."""
#: Between two writings.
SECONDS = 10.0

_OPEN: dict[Path, KeptProfile] = {}
_LOCK = threading.Lock()


def is_wanted() -> bool:
    """Whether the environment lets profiles be kept.

    Raises:
        ArgumentError: :data:`VARIABLE` says neither.
    """
    value = os.environ.get(VARIABLE, "on")
    if value not in ("on", "off"):
        raise ArgumentError(f"{VARIABLE} is {value!r}, expected 'on' or 'off'")
    return value == "on"


def profiles_folder() -> Path:
    """Where they lie."""
    return cache_folder() / "profiles"


def kept_profile(machine: Mapping[str, str], model: Mapping[str, str]) -> KeptProfile:
    """The profile for a machine and a model, one object a process; empty where nothing was measured yet.

    Args:
        machine: what :func:`~hornbeam.machine.identity.machine_facts` says.
        model: what distinguishes the model's shape.
    """
    path = profiles_folder() / f"{digest(machine)}-{digest(model)}.json"
    with _LOCK:
        if path not in _OPEN:
            _OPEN[path] = KeptProfile(path, {"machine": dict(machine), "model": dict(model)})
        return _OPEN[path]


class KeptProfile(Profile):
    """A profile and its file.

    A file that is damaged, or whose facts are others, is ignored with a warning, and replaced when there is
    something to write.

    Args:
        path: the file.
        facts: of the machine and of the model.
    """

    def __init__(self, path: Path, facts: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__()
        self.path = path
        self._facts = facts
        self._writing = threading.Lock()
        self._can_write = True
        found = self._read()
        if found is not None:
            self.take(found)
        self._written = self.changes
        self._when = time.monotonic()

    def keep(self, *, now: bool = False) -> None:
        """Writes what has been learned since, if that is due, or ``now``. What another process has added to
        the file meanwhile stays in it. Where it cannot be written a warning says so once."""
        is_due = now or time.monotonic() - self._when >= SECONDS
        if not (is_due and self._can_write and self._written != self.changes):
            return
        with self._writing:
            changes = self.changes
            try:
                self._merge()
                changes = self.changes
                profile_file.write(self.path, self.contents(self._facts))
            except OSError as error:
                self._can_write = False
                warnings.warn(
                    f"what was measured on this machine cannot be kept: {error}; {VARIABLE}=off does not try",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._written, self._when = changes, time.monotonic()

    def _merge(self) -> None:
        """Takes over what the file has of operations that nothing is known of here."""
        found = self._read() if self.path.exists() else None
        if found is not None:
            own = self.contents().choices
            if new := [at for at in found.choices if at not in own]:
                self.take(found, only=new)

    def _read(self) -> profile_file.Contents | None:
        try:
            found = profile_file.read(self.path)
        except FileNotFoundError:
            return None
        except (ArgumentError, OSError) as error:
            self._warn(str(error))
            return None
        if found.facts != self._facts:
            self._warn(f"{self.path} is of another machine or model")
            return None
        return found

    @staticmethod
    def _warn(reason: str) -> None:
        warnings.warn(f"a profile is ignored: {reason}", RuntimeWarning, stacklevel=4)


@atexit.register
def _keep_all() -> None:
    for profile in list(_OPEN.values()):
        profile.keep(now=True)
