"""Which random numbers a sequence draws, through any number of forks."""

from __future__ import annotations

import hashlib

__all__ = ["RandomKey"]


class RandomKey:
    """Names the random numbers of a sequence: a number, and the indices of the forks that led to it."""

    __slots__ = ("_seeds", "num_children", "path")

    def __init__(self, *path: int) -> None:
        self.path = path
        self._seeds: dict[int, int] = {}
        #: Keys that forks made of this one so far.
        self.num_children = 0

    def fork(self, count: int) -> list[RandomKey]:
        """The keys of ``count`` continuations: the first goes on with this one, each other appends its index,
        counted over all forks of this key."""
        own = RandomKey(*self.path)
        own.num_children = self.num_children + count - 1
        children = [RandomKey(*self.path, self.num_children + index) for index in range(1, count)]
        return [own, *children]

    @property
    def number(self) -> int:
        """The ``sequence`` of :mod:`hornbeam.ops`."""
        return self.path[0]

    def seed(self, seed: int) -> int:
        """The ``seed`` of :mod:`hornbeam.ops`, given that of the call: of a fork 64 bits of a hash of that
        and its path, so that no two forks of any two requests have the same numbers."""
        if len(self.path) == 1:
            return seed
        if seed not in self._seeds:
            words = b"".join(part.to_bytes(8, "little") for part in (seed, *self.path))
            self._seeds[seed] = int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little")
        return self._seeds[seed]
