"""What a search may still spend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hornbeam.engine.search_memory import SearchMemory
from hornbeam.search.budget import Ledger
from hornbeam.search.path import Path, Stop
from hornbeam.search.step_end import StepEnd

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.request import Request

__all__ = ["SearchSpending", "take_step"]


def take_step(engine: Engine, ledger: Ledger, waiting: Request) -> None:
    """Takes a step that ``waiting`` is to go on in, and charges it, whatever comes of it."""
    ledger.reserve(forwards=1)
    try:
        engine.drive(waiting)
    finally:
        ledger.settle({"forwards": 1}, forwards=1)


class SearchSpending:
    """What a budget leaves for rounds to come.

    Args:
        ledger: of the search.
        memory: likewise.
        step: where steps end.
        kv_bytes: the limit, if there is one.
        is_reducing: whether caches are reduced, so that nothing that was let go can be computed anew.
        more: tokens of a child beside those that it writes.
    """

    def __init__(
        self,
        ledger: Ledger,
        memory: SearchMemory,
        step: StepEnd,
        kv_bytes: int | None,
        *,
        is_reducing: bool,
        more: int,
    ) -> None:
        self._ledger = ledger
        self._memory = memory
        self._step = step
        self.kv_bytes = kv_bytes
        self._is_reducing = is_reducing
        self._more = more

    @property
    def allows_passes(self) -> bool:
        """Whether the children of a round may have to be written in several passes."""
        return self.kv_bytes is not None and not self._is_reducing

    def spent(self, within: bool = False) -> Stop | None:
        """The kind of cost that ran out; within a round what the round has reserved counts as there."""
        kinds: tuple[Stop, ...] = ("forwards", "seconds")
        if not within:
            kinds = ("tokens", "verifier_calls", *kinds)
        return next((kind for kind in kinds if self._ledger.left(kind) == 0), None)

    def affordable(self, leaves: Sequence[Path]) -> tuple[int, Stop | None]:
        """How many children a round may have that goes on from ``leaves``, and what limits them."""
        found: list[tuple[int, Stop]] = []
        tokens, calls = self._ledger.left("tokens"), self._ledger.left("verifier_calls")
        if tokens is not None:
            found.append((max(tokens // self._step.max_tokens, min(tokens, 1)), "tokens"))
        if calls is not None:
            found.append((calls, "verifier_calls"))
        if self.kv_bytes is not None:
            sizes = [self.child_bytes(leaf, self._step.max_tokens) for leaf in leaves]
            most = max(sizes, default=1)
            if self._is_reducing:
                # There are as many children as there is room.
                found.append(((self._ledger.left("kv_bytes") or 0) // most, "kv_bytes"))
            elif max(map(self._memory.path_bytes, leaves), default=0) + most > self.kv_bytes:
                # The deepest path alone has to fit; what else is held is let go for it.
                found.append((0, "kv_bytes"))
        return min(found, default=(1 << 30, None))

    def child_bytes(self, leaf: Path, tokens: int) -> int:
        """Bytes of pages that a child of ``leaf`` may take beside it: what a reduction writes anew may be all
        of its text."""
        others = len(leaf.prompt_ids) + len(leaf.token_ids) if self._is_reducing else 0
        return self._memory.step_bytes(others + tokens + self._more)

    def each(self, total: int) -> int:
        """Tokens that each of ``total`` children of a round may have."""
        room = self._ledger.left("tokens")
        return self._step.max_tokens if room is None else min(self._step.max_tokens, room // max(total, 1))
