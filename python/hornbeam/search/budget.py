"""What a search may spend, and what it has spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hornbeam import _native
from hornbeam.errors import ArgumentError
from hornbeam.integers import byte_size, whole_number

__all__ = ["KINDS", "Account", "Budget", "Ledger"]

KINDS = ("tokens", "forwards", "kv_bytes", "verifier_calls", "seconds")
"""The kinds of cost, in the order of the native ledger, which counts time in nanoseconds."""

Amounts = list[int]


@dataclass(frozen=True)
class Budget:
    """What a search may spend. What is left out has no limit. No limit is passed, except ``seconds``: by the
    forward pass or the call of ``value`` that was under way.

    Attributes:
        tokens: that the model writes.
        forwards: steps of the engine that the search waits for; reading the prompt takes some too.
        kv_bytes: of pages below the prompt at a time, as a number or as text such as "256MB".
        seconds: from the call on.
        verifier_calls: paths that are valued.

    Raises:
        ArgumentError: a limit is not of its kind, or is negative.
    """

    tokens: int | None = None
    forwards: int | None = None
    kv_bytes: int | str | None = None
    seconds: float | None = None
    verifier_calls: int | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "forwards", "verifier_calls"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, whole_number(value, name))
        if self.kv_bytes is not None:
            object.__setattr__(self, "kv_bytes", byte_size(self.kv_bytes, "kv_bytes"))
        seconds: Any = self.seconds
        if seconds is not None and not (
            isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 <= seconds < 1e9
        ):
            raise ArgumentError(f"seconds is {seconds!r}, expected a number, 0 or more")

    def limits(self) -> list[int | None]:
        """In the order of :data:`KINDS`."""
        found = [getattr(self, kind) for kind in KINDS[:-1]]
        return [*found, None if self.seconds is None else int(self.seconds * 1e9)]


def amounts(**given: int) -> Amounts:
    """One number a kind, 0 where none is given."""
    return [given.get(kind, 0) for kind in KINDS]


class Account:
    """A part of a :class:`Ledger`; what it spends, those above it spend too.

    Args:
        native: the ledger.
        number: of the account in it.
    """

    def __init__(self, native: _native.Ledger, number: int) -> None:
        self._native = native
        self._number = number

    def open(self, budget: Budget | None = None) -> Account:
        """An account below this one, with limits of its own, those of ``budget``."""
        return Account(self._native, self._native.open(self._number, (budget or Budget()).limits()))

    def reserve(self, **given: int) -> bool:
        """Charges ``given``, work that is to be done, if it fits everywhere; says whether it did. Nothing
        changes if not."""
        return self._native.reserve(self._number, amounts(**given))

    def settle(self, reserved: dict[str, int], **used: int) -> None:
        """Ends a reservation, ``reserved``, of which so much was ``used``; the rest is given back.

        Raises:
            ArgumentError: more was used than reserved.
        """
        self._native.settle(self._number, amounts(**reserved), amounts(**used))

    def spend_seconds(self, seconds: float) -> None:
        """Notes ``seconds`` that have passed."""
        self._native.spend(self._number, KINDS.index("seconds"), int(seconds * 1e9))

    def left(self, kind: str) -> int | None:
        """How much of ``kind`` can still be reserved; None without a limit. Time is in nanoseconds."""
        return self._native.left(self._number, KINDS.index(kind))

    @property
    def exhausted(self) -> str | None:
        """The kind of which nothing is left, if there is one."""
        return self._native.exhausted(self._number)

    @property
    def tokens(self) -> int:
        """Tokens that were written."""
        return self._native.spent(self._number)[0]

    @property
    def forwards(self) -> int:
        """Steps of the engine that were waited for."""
        return self._native.spent(self._number)[1]

    @property
    def kv_bytes(self) -> int:
        """The most bytes of pages below the prompt at a time."""
        return self._native.peak_bytes(self._number)

    @property
    def kv_bytes_held(self) -> int:
        """Those that are held now."""
        return self._native.spent(self._number)[2]

    def release_bytes(self, count: int) -> None:
        """Gives ``count`` bytes of pages back that are held."""
        self._native.release(self._number, count)

    @property
    def verifier_calls(self) -> int:
        """Paths that were valued."""
        return self._native.spent(self._number)[3]

    @property
    def seconds(self) -> float:
        """Time that has passed."""
        return self._native.spent(self._number)[4] / 1e9

    def __repr__(self) -> str:
        held = ", ".join(f"{kind}={getattr(self, kind)}" for kind in KINDS[:-1])
        return f"{type(self).__name__}({held}, seconds={self.seconds:.3f})"


class Ledger(Account):
    """What a search has spent: ``tokens``, ``forwards``, ``kv_bytes`` (the peak), ``verifier_calls`` and
    ``seconds``.

    Args:
        budget: the limits of the whole.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        super().__init__(_native.Ledger((budget or Budget()).limits()), 0)

    def snapshot(self) -> list[int]:
        """What was spent of each of :data:`KINDS`, time in nanoseconds and of bytes those that are held; then
        the most bytes that were held."""
        return [*self._native.spent(0), self._native.peak_bytes(0)]

    def go_on_from(self, snapshot: Sequence[int]) -> None:
        """Notes what was spent up to a later :meth:`snapshot` of the same search, whatever the limits are."""
        *wanted, peak = snapshot
        held = KINDS.index("kv_bytes")
        wanted_held, wanted[held] = wanted[held], max(peak, self.kv_bytes_held)
        for kind, (now, then) in enumerate(zip(self._native.spent(0), wanted, strict=True)):
            self._native.spend(0, kind, then - now)
        self.release_bytes(self.kv_bytes_held - wanted_held)
