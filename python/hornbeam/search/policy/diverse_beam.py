"""Diverse beam search."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number
from hornbeam.search.beam_groups import BeamGroups
from hornbeam.search.policy.base import TokenPolicy

__all__ = ["DiverseBeam"]


@dataclass(frozen=True)
class DiverseBeam(TokenPolicy):
    """Diverse beam search (Vijayakumar et al. 2016, arXiv 1610.02424, algorithm 1) with Hamming diversity.

    Each step ``groups`` groups of ``width / groups`` beams choose one after the other. Before a group does, a
    token loses ``diversity`` of its log-probability for each beam of an earlier group that goes on with it in
    this step. As the algorithm assigns it, a beam keeps what it has paid: scores include it. The paper's
    beams all have one length; here beams of a group end, and are scored, as in :class:`Beam`, and a group
    that is over chooses nothing any more.

    Attributes:
        groups: a divisor of ``width``.
        diversity: the paper's lambda.
    """

    name: ClassVar[str] = "diverse_beam"

    groups: int = 4
    diversity: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        groups = whole_number(self.groups, "groups", 1)
        if self.width % groups:
            raise ArgumentError(f"groups is {groups}, expected a divisor of width, which is {self.width}")
        object.__setattr__(self, "groups", groups)
        self._check_number("diversity")
        if self.diversity < 0:
            raise ArgumentError(f"diversity is {self.diversity}, expected 0 or more")

    def start(self, max_new_tokens: int, eos_token_ids: Collection[int], device: Any) -> BeamGroups:
        """The beams at the end of a prompt."""
        rules = self._rules(self.width // self.groups, max_new_tokens, eos_token_ids)
        return BeamGroups.start(rules, device, self.groups, self.diversity)
