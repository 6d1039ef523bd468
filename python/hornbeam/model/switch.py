"""Which kernel answers each call of a pass, and the timing of another one beside it.

An operation with several kernels has a :class:`Cell` for every bucket of rows. Most calls look at the cell
and run what it names. Now and then a call times its kernel, and another call of the same pass first times a
second kernel, whose result is thrown away, then runs its own: so each of the two is timed on weights that no
cache holds, one right after the other, and what the pass gives is its own kernel's in every case. Such pairs
go to the profile (:class:`hornbeam.machine.Profile`), which decides (:mod:`hornbeam.machine.choice`).

What that may take: as long as fewer pairs of an operation are known than a decision looks at, the seconds of
second kernels stay below :data:`UNKNOWN_SHARE` of the seconds of all passes; afterwards, so that a decision
does not outlive its reasons, each second kernel takes :data:`KNOWN_SHARE` of the seconds of its own
operation.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from hornbeam.errors import ArgumentError
from hornbeam.machine.choice import PAIRS, Choice
from hornbeam.machine.kernels import Kernels
from hornbeam.machine.operation import Operation
from hornbeam.machine.profile import Profile
from hornbeam.machine.rows import LAST_ROWS, bucket_of

__all__ = ["KNOWN_SHARE", "UNKNOWN_SHARE", "Cell", "Cells", "Switch"]

#: Share of the time of all passes for kernels of which too little is known.
UNKNOWN_SHARE = 0.008
#: Share of an operation's own time for the kernel that was found slower.
KNOWN_SHARE = 0.001
#: How many times as long as the chosen kernel another may take of which nothing is known.
UNKNOWN_FACTOR = 4.0
#: A kernel that took more than so many times as long as the chosen one is timed as often as if it took so
#: many: what made it slow, another process perhaps, may have ended.
LARGEST_RELATION = 8.0
#: Calls after which a pair is tried again that there was no time for.
LATER = 16
#: Row counts whose cells are found by index.
FEW_ROWS = 1025

_NEVER = 1 << 62
_T = TypeVar("_T")


class Cell:
    """The kernel of an operation at the row counts of a bucket.

    Attributes:
        kernel: its name.
        is_first: whether it is the first of the operation's kernels.
        calls: calls until one is timed; counted down by the caller.
    """

    __slots__ = ("bucket", "calls", "default", "in_pass", "is_first", "kernel", "pair", "rows", "turn")

    def __init__(self, bucket: int, default: str) -> None:
        self.bucket = bucket
        self.default = default
        self.kernel = default
        self.is_first = True
        self.calls = _NEVER
        #: The half of a pair that was timed already, kernel and seconds, and its pass and rows.
        self.pair: tuple[str, float] | None = None
        self.in_pass = self.rows = 0
        #: Pairs so far: of every other one the second kernel is timed first.
        self.turn = 0

    def is_near(self, in_pass: int, rows: int) -> bool:
        """Whether a pass is so near to that of the first half of a pair that the clock is the same, and of as
        many rows."""
        return self.rows == rows and in_pass - self.in_pass <= 1


class Cells:
    """The cells of one operation.

    Args:
        switch: what they belong to.
        operation: which one.
        names: its kernels.
        default: the one for a row count, where nothing was measured.
    """

    def __init__(
        self, switch: Switch, operation: Operation, names: tuple[str, ...], default: Callable[[int], str]
    ) -> None:
        self._switch = switch
        self.operation = operation
        self.names = names
        self._all = [
            Cell(bucket, default(last)) for bucket, last in enumerate((*LAST_ROWS, 2 * LAST_ROWS[-1]))
        ]
        self._few = [self._all[bucket_of(max(rows, 1))] for rows in range(FEW_ROWS)]

    def __iter__(self) -> Iterator[Cell]:
        return iter(self._all)

    def at(self, rows: int) -> Cell:
        """The cell for a row count."""
        return self._few[rows] if rows < FEW_ROWS else self._all[bucket_of(rows)]

    def other(self, cell: Cell, choice: Choice | None) -> str:
        """The kernel that is to be timed beside that of a cell: the one that is chosen by now, or of the
        others one that is known least, in turn."""
        own = cell.kernel
        if choice is not None and choice.kernel != own:
            return choice.kernel
        others = [name for name in self.names if name != own]
        first = cell.turn // 2 % len(others)
        in_turn = others[first:] + others[:first]
        return in_turn[0] if choice is None else min(in_turn, key=choice.pairs)

    def timed(self, cell: Cell, rows: int, kernels: Mapping[str, Callable[[], _T]]) -> _T:
        """The result of the cell's kernel, one of ``kernels``, which do the same. May time it, or another
        beside it."""
        return self._switch.timed(self, cell, rows, kernels)


class Switch:
    """The cells of all operations of a model's passes, and the kernels that they name."""

    def __init__(self) -> None:
        self.profile: Profile | None = None
        #: How often each operation stands in the model, by the modules that were taken.
        self.operations: Counter[Operation] = Counter()
        #: Seconds of all passes so far, and of kernels that were timed beside them.
        self.seconds = 0.0
        self.beside = 0.0
        #: Of the latter those of the last pass.
        self.last_beside = 0.0
        self._cells: dict[Operation, Cells] = {}
        self._kernels: Kernels | None = None
        self._pass = 0
        self._is_free = False
        #: Of passes in which pairs are timed freely: whether the last one has left too few of some operation.
        self.is_short = False

    # -- which kernel ----------------------------------------------------------------------------------------

    def cells(self, operation: Operation, names: tuple[str, ...], default: Callable[[int], str]) -> Cells:
        """The cells of an operation, made when they are first asked for; arguments as of :class:`Cells`.

        Raises:
            ArgumentError: the profile names a kernel that the operation does not have.
        """
        if operation not in self._cells:
            cells = self._cells[operation] = Cells(self, operation, names, default)
            self._set(cells)
        return self._cells[operation]

    def attach(self, profile: Profile | None) -> None:
        """Takes kernels from a profile from now on, and adds to it if it learns; from none where it is None.

        Raises:
            ArgumentError: as :meth:`cells`.
        """
        self.profile = profile
        self._kernels = None if profile is None else profile.kernels
        for cells in self._cells.values():
            self._set(cells)

    def use(self, kernels: Kernels | None) -> None:
        """Runs these kernels from the next pass on; with None those that were measured nowhere."""
        if kernels is not self._kernels:
            self._kernels = kernels
            for cells in self._cells.values():
                self._set(cells)

    def _set(self, cells: Cells) -> None:
        for cell in cells:
            name = cell.default
            if self._kernels is not None:
                name = self._kernels.of(cells.operation, cell.bucket, name)
            if name not in cells.names:
                known = ", ".join(cells.names)
                raise ArgumentError(
                    f"the profile has the kernel {name!r} for {cells.operation.name}, expected one of {known}"
                )
            if name != cell.kernel:
                cell.pair = None
            cell.kernel, cell.is_first = name, name == cells.names[0]
            cell.calls = self._calls_until_due(cells, cell)

    def _calls_until_due(self, cells: Cells, cell: Cell) -> int:
        """Calls of a cell until another kernel is timed beside its own."""
        profile = self.profile
        if profile is None or not profile.learns or len(cells.names) < 2:
            return _NEVER
        choice = profile.choice(cells.operation, cell.bucket)
        other = cells.other(cell, choice)
        if self._is_free or choice is None or _pairs(choice, cell.kernel, other) < PAIRS:
            return 0
        if choice.kernel == cell.kernel and choice.is_in_doubt(other):
            return 0
        return int(min(_relation(choice, cell.kernel, other), LARGEST_RELATION) / KNOWN_SHARE)

    # -- passes ----------------------------------------------------------------------------------------------

    def begin(self) -> float:
        """A pass begins; gives the time."""
        self._pass += 1
        self.last_beside, self.is_short = 0.0, False
        return time.perf_counter()

    def end(self, begin: float) -> None:
        """A pass that began at ``begin`` has ended."""
        self.seconds += time.perf_counter() - begin

    @contextmanager
    def freely(self) -> Iterator[None]:
        """While it lasts, pairs are timed whatever they take."""
        self._is_free = True
        try:
            for cells in self._cells.values():
                self._set(cells)
            yield
        finally:
            self._is_free = False

    # -- timing ----------------------------------------------------------------------------------------------

    def timed(self, cells: Cells, cell: Cell, rows: int, kernels: Mapping[str, Callable[[], _T]]) -> _T:
        """What :meth:`Cells.timed` does."""
        profile, own = self.profile, cell.kernel
        if profile is None or not profile.learns or rows == 0:
            cell.calls = _NEVER
            return kernels[own]()
        choice = profile.choice(cells.operation, cell.bucket)
        other = cells.other(cell, choice)
        pairs = 0 if choice is None else _pairs(choice, own, other)
        if self._is_free and pairs >= PAIRS:
            cell.calls = LATER
            return kernels[own]()
        if self._is_free and 0 < self.operations[cells.operation] < PAIRS:
            return self._compared(cells, cell, kernels)
        half = cell.pair
        if half is not None and (half[0] not in (own, other) or not cell.is_near(self._pass, rows)):
            half = cell.pair = None
        if (half[0] == other) if half is not None else cell.turn % 2 == 0:
            seconds, result = _clocked(kernels[own])
            timing = (own, seconds)
        else:
            known = half[1] if half is not None else (choice and choice.seconds) or 0.0
            expected = known * (UNKNOWN_FACTOR if choice is None else _relation(choice, own, other))
            is_dear = self.beside + expected > UNKNOWN_SHARE * self.seconds
            if pairs < PAIRS and is_dear and not self._is_free:
                cell.calls = LATER
                return kernels[own]()
            seconds, _ = _clocked(kernels[other])
            timing = (other, seconds)
            self.last_beside += seconds
            if pairs < PAIRS:
                self.beside += seconds
            result = kernels[own]()
        if half is None:
            cell.pair, cell.in_pass, cell.rows = timing, self._pass, rows
            return result
        cell.pair, cell.turn = None, cell.turn + 1
        pair = dict([half, timing])
        profile.record(cells.operation, cell.bucket, cell.default, pair)
        self.is_short = self.is_short or pairs + 1 < PAIRS
        cell.calls = self._calls_until_due(cells, cell)
        return result

    def _compared(self, cells: Cells, cell: Cell, kernels: Mapping[str, Callable[[], _T]]) -> _T:
        """The result of the cell's kernel, after all pairs in this one call: few layers do this operation,
        and one that stands alone, such as the head, is larger than most caches."""
        profile, own = self.profile, cell.kernel
        assert profile is not None
        for number in range(2 * PAIRS * (len(cells.names) - 1)):
            choice = profile.choice(cells.operation, cell.bucket)
            other = cells.other(cell, choice)
            if choice is not None and _pairs(choice, own, other) >= PAIRS:
                break
            order = (own, other) if number % 2 == 0 else (other, own)
            pair = {name: _clocked(kernels[name])[0] for name in order}
            self.last_beside += sum(pair.values())
            profile.record(cells.operation, cell.bucket, cell.default, pair)
        return kernels[own]()


def _clocked(run: Callable[[], _T]) -> tuple[float, _T]:
    begin = time.perf_counter()
    result = run()
    return max(time.perf_counter() - begin, 1e-9), result


def _pairs(choice: Choice, own: str, other: str) -> int:
    """How many pairs of a cell's own kernel and another are known."""
    return choice.pairs(other if choice.kernel == own else own)


def _relation(choice: Choice, own: str, other: str) -> float:
    """How many times as long the other kernel takes as the cell's own, as far as is known."""
    if choice.kernel == own:
        ratio = choice.ratio(other)
        return UNKNOWN_FACTOR if ratio is None else 1.0 / ratio
    return choice.ratio(own) or UNKNOWN_FACTOR
