"""The workers of a call over many machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number

__all__ = ["Pool"]


@dataclass(frozen=True)
class Pool:
    """The workers.

    Attributes:
        workers: actors with one engine each; None for as many as the cluster has room for now.
        num_cpus: of each; its engine computes with so many threads.
        num_gpus: of each.
        resources: of each, by the names of the cluster.
        tries: so many workers may die with a prompt under way before the call fails.
        patience: seconds of silence after which a worker is taken for dead.

    Raises:
        ArgumentError: a number is out of range.
    """

    workers: int | None = None
    num_cpus: int = 1
    num_gpus: float = 0
    resources: dict[str, float] = field(default_factory=dict)
    tries: int = 3
    patience: float = 60.0

    def __post_init__(self) -> None:
        if self.workers is not None:
            whole_number(self.workers, "workers", 1)
        whole_number(self.num_cpus, "num_cpus", 1)
        whole_number(self.tries, "tries", 1)
        for name, least in (("num_gpus", 0.0), ("patience", 1.0)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value < 1e9:
                raise ArgumentError(f"{name} is {value!r}, expected a number, {least:g} or more")

    def size(self, most: int, there: Mapping[str, float]) -> int:
        """How many workers there are to be.

        Args:
            most: of them.
            there: what the cluster has, by name.

        Raises:
            ArgumentError: the cluster can hold none, or less than ``workers``.
        """
        needed = {"CPU": float(self.num_cpus), "GPU": float(self.num_gpus), **self.resources}
        room = min(int(there.get(name, 0.0) // count) for name, count in needed.items() if count)
        if room < (self.workers or 1):
            raise ArgumentError(
                f"workers is {self.workers}, expected at most {room}: the cluster has {dict(there)}, and "
                f"each worker takes {needed}"
            )
        return max(min(self.workers or room, most), 1)
