"""How a budget over many prompts is divided among them: what one leaves goes to the others.

Every prompt that is not done may spend an equal share of what those that are done have left. So a share only
ever rises, and what each comes to depends on what the answers cost, not on who finished first: the same on
    any
number of workers. (The order does not matter, since a prompt that ends within its share gives the others at
least what they had.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hornbeam.errors import ArgumentError, InternalError
from hornbeam.search.budget import KINDS, Budget, Ledger

__all__ = ["Shares", "Terms"]


@dataclass(frozen=True)
class Terms:
    """By which a budget is shared.

    Attributes:
        budget: over all prompts.
        kinds: of cost that the work spends and that depend on the answers alone.
        in_rounds: whether shares rise by :meth:`Shares.advance` alone, and not with every prompt that is
            done: for work whose course depends on what it may spend, such as a search.

    Raises:
        ArgumentError: the budget limits something else.
    """

    budget: Budget
    kinds: tuple[str, ...]
    in_rounds: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.budget, Budget):
            raise ArgumentError(f"budget is {self.budget!r}, expected a hornbeam.Budget")
        for kind in KINDS:
            if getattr(self.budget, kind) is not None and kind not in self.kinds:
                raise ArgumentError(
                    f"budget limits {kind}, expected {' and '.join(self.kinds)} alone: nothing else is the "
                    "same however the prompts are spread"
                )


class Shares:
    """What each of ``count`` prompts may spend.

    Args:
        terms: of the budget over all.
        count: of prompts.
    """

    def __init__(self, terms: Terms, count: int) -> None:
        budget, kinds = terms.budget, terms.kinds
        #: What the answers have cost, and what is reserved for those to come.
        self.ledger = Ledger(budget)
        self._kinds = kinds
        self._left = {kind: limit for kind in kinds if (limit := getattr(budget, kind)) is not None}
        self._undone = np.ones(count, bool)
        self._num_undone = count
        self._granted: dict[int, dict[str, int]] = {}
        self._in_rounds = terms.in_rounds
        self._levels: dict[str, tuple[int, int]] = {}
        self._divide()

    @property
    def is_limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self._left)

    def _divide(self) -> bool:
        """Sets the shares anew; whether one has risen. The first prompts get what does not come out even."""
        before, self._levels = self._levels, {}
        for kind, left in self._left.items():
            each, more = divmod(left, max(self._num_undone, 1))
            self._levels[kind] = (each, int(np.flatnonzero(self._undone)[more - 1]) if more else -1)
        return self._levels != before

    def share(self, item: int) -> dict[str, int]:
        """What a prompt that is not done may spend in all, of each kind that is limited."""
        return {kind: each + int(item <= last) for kind, (each, last) in self._levels.items()}

    def grant(self, item: int) -> dict[str, int]:
        """Reserves a prompt's :meth:`share`, beyond what was reserved for it before, and returns it."""
        share, before = self.share(item), self._granted.get(item, {})
        more = {kind: share[kind] - before.get(kind, 0) for kind in share}
        if min(more.values(), default=0) < 0 or not self.ledger.reserve(**more):
            raise InternalError(f"the share of prompt {item} went from {before} to {share}")
        self._granted[item] = share
        return share

    def done(self, item: int, used: Mapping[str, int]) -> None:
        """A prompt has cost ``used``, the rest of its share is for the others."""
        granted = self._granted.pop(item, {})
        spent = {kind: used.get(kind, 0) for kind in self._kinds}
        free = {kind: count for kind, count in spent.items() if kind not in granted}
        self.ledger.reserve(**free)  # of kinds without a limit
        self.ledger.settle({**granted, **free}, **spent)
        self._undone[item] = False
        self._num_undone -= 1
        for kind in self._left:
            self._left[kind] -= spent[kind]
        if not self._in_rounds and self._num_undone:
            self._divide()

    def advance(self) -> bool:
        """Begins the next round; whether a share has risen."""
        return self._num_undone > 0 and self._divide()
