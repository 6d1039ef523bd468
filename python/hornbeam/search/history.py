"""What a search did, round by round: when each node was written and released, and what was spent by then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hornbeam.search.budget import Account, Budget

__all__ = ["NodeRecord", "RoundRecord", "SearchHistory"]


@dataclass
class NodeRecord:
    """When a node came and went.

    Attributes:
        round: in which it was written, the first being 1.
        reused_tokens: of the prompt and the path before it, those whose pages were there already.
        kv_bytes: of the pages that it alone held when its round was written.
        released: the round after which it was let go; None if it was held when the search was broken off.
            Pages that nodes below it share are given back with the last of those.
    """

    round: int
    reused_tokens: int
    kv_bytes: int
    released: int | None = None


@dataclass(frozen=True)
class RoundRecord:
    """A round, and what the search had spent by its end.

    Attributes:
        number: of the round, the first being 1.
        nodes: those that were written in it.
        live: those that may be gone on from after it.
        tokens: written so far.
        forwards: steps of the engine so far.
        verifier_calls: paths valued so far.
        seconds: passed so far.
        kv_bytes: held when its nodes were written.
        kv_bytes_held: held after it, without what nothing goes on from.
    """

    number: int
    nodes: list[int]
    live: list[int]
    tokens: int
    forwards: int
    verifier_calls: int
    seconds: float
    kv_bytes: int
    kv_bytes_held: int


@dataclass
class SearchHistory:
    """The rounds of a search. Recording takes microseconds a node.

    Attributes:
        rounds: in order.
        nodes: by number.
        budget: what could be spent.
        settings: of the search, by name, as text.
        model: its name, class, dtype and device.
        prompt: its text.
        began: the local time, as text.
    """

    rounds: list[RoundRecord] = field(default_factory=list)
    nodes: dict[int, NodeRecord] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    settings: dict[str, str] = field(default_factory=dict)
    model: dict[str, str] = field(default_factory=dict)
    prompt: str = ""
    began: str = ""

    def note(
        self,
        ledger: Account,
        *,
        written: Mapping[int, NodeRecord],
        released: Sequence[int],
        live: Sequence[int],
        kv_bytes: int,
    ) -> None:
        """Adds a round that has ended.

        Args:
            ledger: what was spent by now.
            written: the nodes of the round.
            released: nodes whose pages were given back after it.
            live: nodes that may be gone on from.
            kv_bytes: what was held when its nodes were written.
        """
        number = len(self.rounds) + 1
        self.nodes.update(written)
        for node in released:
            if node in self.nodes:
                self.nodes[node].released = number
        self.rounds.append(
            RoundRecord(
                number,
                list(written),
                list(live),
                ledger.tokens,
                ledger.forwards,
                ledger.verifier_calls,
                ledger.seconds,
                kv_bytes,
                ledger.kv_bytes_held,
            )
        )
