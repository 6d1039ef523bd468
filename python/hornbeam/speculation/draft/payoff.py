"""Whether to ask a draft source at all: the seconds that it takes against those that its tokens save.

A stop rule decides how many drafted tokens are worth a row when they are there, and the draft is paid for.
This is the decision before. It is learned for each kind of step: how good a guess there was already, and
how many sequences there are.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from hornbeam.speculation.draft.merged_tree import Chances

__all__ = ["Account", "Payoff", "UnionMemory"]

# Asks that what is expected of a source is worth, and asks after which one counts 1/e.
PRIOR_ASKS, MEMORY = 6.0, 48.0
# Of a source that was never asked: seconds saved over seconds spent.
OPTIMISM = 2.0
# A source that takes less than this share of what a token takes is asked whatever it brings.
CHEAP = 0.005
# Share of the seconds that pass while a source does not pay that may be lost on asking it nevertheless.
EXPLORATION = 0.005
# A draft that took longer than so many others was interrupted.
INTERRUPTED = 4.0
# Steps that a source whose price depends on the length of the text is not asked in at a new length: what a
# token
# takes without it is measured there, of which the curve keeps sixteen and believes the median.
PLAIN_STEPS = 9


@dataclass
class Account:
    """What asks of one kind have saved, in seconds: discounted sums."""

    asked: float = 0.0
    saved: float = 0.0
    #: Seconds of steps in which the source did not pay, and what was lost in them on asking it.
    idle: float = 0.0
    explored: float = 0.0

    def book(self, saved: float) -> None:
        """Records an ask. What rows cost beyond what their tokens saved is negative."""
        keep = 1.0 - 1.0 / MEMORY
        self.asked, self.saved = self.asked * keep + 1.0, self.saved * keep + saved

    def mean(self, prior: float) -> float:
        """Seconds that an ask is expected to save."""
        return (self.saved + PRIOR_ASKS * prior) / (self.asked + PRIOR_ASKS)


@dataclass
class Payoff:
    """The books of one source: what an ask costs a sequence, and what it saves.

    At first a source is expected to pay. When it does not, it is asked only as often as the loss stays
    below a small share of the time that passes.
    """

    seconds: float | None = None
    num_booked: int = 0
    overall: Account = field(default_factory=Account)
    accounts: dict[Hashable, Account] = field(default_factory=dict)
    #: Steps in which it is not asked, so that others are measured.
    plain_steps: int = 0
    #: Seconds that an ask can save at most; not known for a source whose books are of all lengths.
    most: float = float("inf")

    @classmethod
    def of_a_length(cls) -> Payoff:
        """Of texts of about one length, for a source whose price depends on it."""
        return cls(plain_steps=PLAIN_STEPS)

    def gain(self, kind: Hashable) -> float:
        """Seconds that an ask in a step of this kind is expected to save beyond its own; infinite before
        the first."""
        if self.seconds is None:
            return float("inf")
        prior = self.overall.mean(min(OPTIMISM * self.seconds, self.most))
        return self.accounts.setdefault(kind, Account()).mean(prior) - self.seconds

    def is_due(self, kind: Hashable, token_seconds: float | None) -> bool:
        """Whether to ask now. ``token_seconds`` is what a token takes without drafts; before that is known
        every source is asked."""
        if self.plain_steps > 0:
            self.plain_steps -= 1
            return False
        if token_seconds is None or self.seconds is None or self.seconds <= CHEAP * token_seconds:
            return True
        gain = self.gain(kind)
        if gain > 0:
            return True
        account = self.accounts[kind]
        account.idle += token_seconds
        if account.explored - gain > EXPLORATION * account.idle:
            return False
        account.explored -= gain
        return True

    def book_seconds(self, spent: float) -> None:
        """Records what an ask took a sequence."""
        self.num_booked += 1
        if self.seconds is None:
            self.seconds = spent
            return
        # The first draft of all pays for allocations.
        most = spent if self.num_booked <= 2 else INTERRUPTED * self.seconds
        share = 1.0 if self.num_booked == 2 else 1.0 / min(self.num_booked - 1, 16)
        self.seconds += (min(spent, most) - self.seconds) * share

    def book_saved(self, kind: Hashable, saved: float) -> None:
        """Records what an ask saved, its own seconds not subtracted."""
        self.overall.book(saved)
        self.accounts.setdefault(kind, Account()).book(saved)


class UnionMemory:
    """What the unions of equal settings have learned on one model.

    Args:
        num_sources: how many sources the unions have.
    """

    def __init__(self, num_sources: int) -> None:
        self.chances = Chances()
        self.payoffs = [Payoff() for _ in range(num_sources)]
        #: Of sources whose price depends on the length of the text, by the octave of it.
        self.by_length: dict[tuple[int, int], Payoff] = {}
