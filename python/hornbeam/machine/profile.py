"""A profile: which kernel is the fastest for each operation, and what a forward pass costs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hornbeam.machine import file as profile_file
from hornbeam.machine.choice import Choice
from hornbeam.machine.file import Contents
from hornbeam.machine.kernels import Kernels
from hornbeam.machine.operation import Operation
from hornbeam.machine.rows import LAST_ROWS

__all__ = ["Measured", "Profile"]


class Measured(NamedTuple):
    """What is known of one operation at some row counts."""

    operation: Operation
    """Which one."""
    rows: int | None
    """The greatest of these row counts; None where they are greater than all that are told apart."""
    kernel: str
    """The kernel that is chosen."""
    times_as_fast: float | None
    """How many times as fast it is as the best of the others, in the median; None before the first pair."""
    pairs: int
    """How many of the last pairs of timings this is from."""


class Profile:
    """What was measured of a model's operations on a machine: the fastest kernel of each, and seconds a pass.

    One that an :class:`hornbeam.LM` opens by itself is kept in the cache folder and goes on learning. One
    that is handed to it (``LM(profile=...)``) learns too, and is kept nowhere; with ``learns=False`` it is
    used as it is: nothing is measured beside what runs, and no kernel changes.

    Args:
        learns: whether what runs adds to it.
    """

    def __init__(self, *, learns: bool = True) -> None:
        self.learns = learns
        self._choices: dict[tuple[Operation, int], Choice] = {}
        self._cost: tuple[tuple[int, float], ...] = ()
        self._lock = threading.Lock()
        self._kernels: Kernels | None = None
        #: How often it has changed.
        self.changes = 0

    def __reduce__(self) -> tuple[Callable[..., Profile], tuple[Any, ...]]:
        """A copy, also in another process, is kept nowhere."""
        return _copied, (self.learns, self.contents())

    def __repr__(self) -> str:
        return f"<Profile of {len(self._choices)} measured operations, learns={self.learns}>"

    @property
    def kernels(self) -> Kernels:
        """The kernels that are chosen now; the same object until another is chosen."""
        with self._lock:
            if self._kernels is None:
                self._kernels = Kernels({at: choice.kernel for at, choice in self._choices.items()})
            return self._kernels

    @property
    def cost(self) -> tuple[tuple[int, float], ...]:
        """Rows of a forward pass and its seconds, rows ascending."""
        return self._cost

    @cost.setter
    def cost(self, points: Iterable[tuple[float, float]]) -> None:
        found = tuple((max(round(rows), 1), float(seconds)) for rows, seconds in points)
        if found != self._cost:
            self._cost = found
            self.changes += 1

    def record(self, operation: Operation, bucket: int, kernel: str, seconds: Mapping[str, float]) -> None:
        """Records the seconds of a pair of kernels, timed one right after the other.

        Args:
            operation: what they did.
            bucket: of their rows, see :func:`hornbeam.machine.rows.bucket_of`.
            kernel: the one that is chosen as long as nothing was measured.
            seconds: of two kernels by name.
        """
        with self._lock:
            choice = self._choices.setdefault((operation, bucket), Choice(kernel))
            if choice.record(seconds):
                self._kernels = None
            self.changes += 1

    def choose(self, operation: Operation, bucket: int, kernel: str) -> None:
        """Chooses a kernel, whatever was measured; what was measured of it is forgotten.

        Args:
            operation: what it does.
            bucket: of rows, see :func:`hornbeam.machine.rows.bucket_of`.
            kernel: its name. One that the operation does not have is refused by the model that it is handed
            to.
        """
        with self._lock:
            self._choices[operation, bucket] = Choice(kernel)
            self._kernels = None
            self.changes += 1

    def choice(self, operation: Operation, bucket: int) -> Choice | None:
        """What is known of an operation at some row counts; None where nothing is.

        Args:
            operation: which one.
            bucket: of rows, as :meth:`choose` has it.
        """
        return self._choices.get((operation, bucket))

    def forget(self) -> None:
        """Forgets all that was measured, and what was chosen for it."""
        with self._lock:
            self._choices, self._kernels, self._cost = {}, None, ()
            self.changes += 1

    def measured(self) -> list[Measured]:
        """What is known, by operation and rows."""
        with self._lock:
            found = []
            for (operation, bucket), choice in sorted(self._choices.items(), key=lambda item: item[0]):
                fast = [(1.0 / (choice.ratio(other) or 1.0), choice.pairs(other)) for other in choice.ratios]
                ratio, pairs = min(fast, default=(None, 0))
                rows = LAST_ROWS[bucket] if bucket < len(LAST_ROWS) else None
                found.append(Measured(operation, rows, choice.kernel, ratio, pairs))
            return found

    # -- files -----------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, learns: bool = False) -> Profile:
        """The profile of a file, whatever machine it was measured on.

        Args:
            path: what :meth:`save` has written, or a file of the cache folder.
            learns: as the constructor has it.

        Raises:
            ArgumentError: the file is damaged, or of another kind.
            OSError: it cannot be read.
        """
        profile = cls(learns=learns)
        profile.take(profile_file.read(path))
        return profile

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it, for :meth:`load`; whoever reads the file meanwhile finds the old one or the new one.

        Args:
            path: the file, which is replaced if it is there.

        Raises:
            OSError: it cannot be written.
        """
        profile_file.write(path, self.contents())

    def keep(self, *, now: bool = False) -> None:
        """Writes what has been learned, if it is kept in a file of its own and that is due, or ``now``: this
        one is kept nowhere."""

    def contents(self, facts: Mapping[str, Mapping[str, str]] | None = None) -> Contents:
        """All that it holds, to be written, with ``facts`` of what it is true for."""
        with self._lock:
            choices = {
                at: Choice(choice.kernel, {k: v.copy() for k, v in choice.ratios.items()}, choice.seconds)
                for at, choice in self._choices.items()
            }
            return Contents(dict(facts or {}), choices, self._cost)

    def take(self, contents: Contents, *, only: Sequence[tuple[Operation, int]] | None = None) -> None:
        """Takes over what a file holds.

        Args:
            contents: what :func:`hornbeam.machine.file.read` gives.
            only: the choices that are taken, and nothing else; all, and the costs, by default.
        """
        with self._lock:
            wanted = contents.choices if only is None else {at: contents.choices[at] for at in only}
            self._choices.update(wanted)
            if only is None:
                self._cost = contents.cost
            self._kernels = None
            self.changes += 1


def _copied(learns: bool, contents: Contents) -> Profile:
    profile = Profile(learns=learns)
    profile.take(contents)
    return profile
