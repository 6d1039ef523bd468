"""What is known of a sequence beyond its pages."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from hornbeam._native import Plan
    from hornbeam.cache.key_table import KeyTable
    from hornbeam.engine.eviction.moments import QueryMoments

__all__ = ["Inputs", "Observed", "State"]


@dataclasses.dataclass
class Inputs:
    """What an attention module was given of a prompt, for scores that read it."""

    module: torch.nn.Module
    hidden: list[Tensor] = dataclasses.field(default_factory=list)  # [1, rows, hidden]
    rotary: list[tuple[Tensor, ...]] = dataclasses.field(default_factory=list)  # of [1, rows, D]


class State:
    """What is known of one sequence beyond its pages. Arrays of keys lie plane after plane, each in order
    of position."""

    def __init__(self, device: torch.device) -> None:
        self.prefilled = False
        self.num_seen = 0  # tokens of the branch when it was last looked at
        self.since = 0  # tokens committed since the last reduction, or since the prompt
        self.length = 0  # tokens that `mass` and `rotated` speak of
        self.mass = torch.empty(0, dtype=torch.int64, device=device)  # on the pool's device
        self.mass_rows: list[int] = []
        self.added = 0  # rows before this position are in the mass, or were not asked for
        self.rotated: NDArray[np.int32] | None = None
        self.queries: list[tuple[NDArray[np.int32], Tensor]] = []  # positions [R], rows [L, H, R, D]
        self.moments: QueryMoments | None = None  # of all queries, for a score that asks for no more
        self.inputs: dict[int, Inputs] = {}

    def fork(self) -> State:
        """The same of a sequence that goes on from here."""
        child = copy.copy(self)
        child.queries, child.mass_rows = list(self.queries), list(self.mass_rows)
        # Sums and moments are added to in place.
        child.mass = self.mass.clone()
        child.moments = None if self.moments is None else self.moments.fork()
        child.inputs = dict(self.inputs)
        return child

    def rows(self) -> tuple[NDArray[np.int32], Tensor | None]:
        """All queries that are kept, as one array."""
        if len(self.queries) > 1:
            positions = np.concatenate([positions for positions, _ in self.queries])
            self.queries = [(positions, torch.cat([rows for _, rows in self.queries], dim=2))]
        return self.queries[0] if self.queries else (np.empty(0, np.int32), None)

    def grow(self, table: KeyTable, length: int) -> None:
        """Makes room for the keys of new tokens."""
        if self.length == length:
            return
        old = table.positions < self.length
        mass = torch.zeros(len(table), dtype=torch.int64, device=self.mass.device)
        mass[torch.from_numpy(np.flatnonzero(old)).to(mass.device)] = self.mass
        self.mass = mass
        if self.rotated is not None:
            rotated = table.positions.copy()
            rotated[old] = self.rotated
            self.rotated = rotated
        self.length = length


@dataclasses.dataclass
class Observed:
    """The rows of one sequence in a step that is under way."""

    state: State
    index: Tensor  # rows of the step
    positions: NDArray[np.int32]
    layers: list[Tensor] = dataclasses.field(default_factory=list)
    mass: MassTake | None = None
    all_rows: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    inputs: dict[int, Inputs] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class MassTake:
    """Rows of a prompt, which add mass at once: too many to be kept."""

    index: Tensor  # rows of the step
    own: Tensor  # the same, counted from the first row of the sequence
    positions: NDArray[np.int32]
    plan: Plan  # of all rows of the sequence in the step
    columns: Tensor  # of the plan, for each key
    offsets: list[int]  # where planes begin
    sums: Tensor  # int64, for each key
