"""Which prompts wait for a worker: the longest first, and where one was worked on before if that can be."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

__all__ = ["Waiting"]

Heap = list[tuple[int, int]]


class Waiting:
    """Prompts that wait.

    Args:
        expected: of each prompt, how long its work is expected to take, in any unit.
    """

    def __init__(self, expected: Sequence[float]) -> None:
        order = sorted(range(len(expected)), key=lambda item: (-expected[item], item))
        self._rank = {item: rank for rank, item in enumerate(order)}
        self._anywhere: Heap = list(enumerate(order))
        self._at: dict[str, Heap] = {}

        self._members = set(order)

    def __len__(self) -> int:
        return len(self._members)

    def add(self, item: int, home: str | None = None) -> None:
        """One more waits, for ``home`` if that worker gets to it before others have nothing else."""
        heap = self._anywhere if home is None else self._at.setdefault(home, [])
        heapq.heappush(heap, (self._rank[item], item))
        self._members.add(item)

    def take(self, worker: str) -> int | None:
        """The next for a worker; None if nobody waits."""
        while self._members:
            longest = max(self._at.values(), key=len, default=[])
            heap = next(heap for heap in (self._at.get(worker, []), self._anywhere, longest) if heap)
            _, item = heapq.heappop(heap)
            if item in self._members:
                self._members.remove(item)
                return item
        return None

    def drop(self, item: int) -> None:
        """One waits no more, if it did."""
        self._members.discard(item)

    def leave(self, worker: str) -> None:
        """What waits for a worker that is gone waits for any."""
        for entry in self._at.pop(worker, []):
            heapq.heappush(self._anywhere, entry)
