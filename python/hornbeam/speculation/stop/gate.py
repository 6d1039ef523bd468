"""Stop rules that decide while a draft grows, before each draw.

Whether a token is drawn may depend on all that was drawn above it, and on the law and the hidden state that
follow from that; not on the token itself. So no ratio test is biased, whatever the tree: given what was
drawn before, the children of a node follow the draft's law, or are none. That holds for a stochastic beam
too: which values its nodes have is settled before the next level is drawn, and which tokens hold the values
of that level does not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

from hornbeam.speculation.protocols import Drafted, Nodes
from hornbeam.speculation.stop.base import LearnsNothing

if TYPE_CHECKING:
    from hornbeam.speculation.tree_building import Node, Tree

__all__ = ["Gate", "GateStop", "levels"]


class Gate(Protocol):
    """What a stop rule with ``is_gate = True`` starts: it is asked before the children of nodes are drawn."""

    needs_states: bool
    """Whether :meth:`limits` reads hidden states."""

    def attach(self, proposer: Any) -> None:
        """The run's source was opened; raises if the gate cannot judge it."""

    def begin(self, trees: Sequence[Tree]) -> None:
        """The drafts of a step begin to grow; the trees are empty."""

    def limits(self, trees: Sequence[Tree], nodes: Sequence[Node], states: Tensor | None) -> Sequence[float]:
        """For each node the greatest entropy, in nats, of the draft's warped law after it at which its
        children are drawn: infinity for any, a negative number for none.

        ``states`` are the hidden states ``[len(nodes), H]`` that the laws come from, where they are needed.
        """


class GateStop(LearnsNothing):
    """A stop rule at work that is a :class:`Gate` and verifies all that was drawn."""

    needs_states: ClassVar[bool] = False

    def __init__(self) -> None:
        #: Which sequences the drafts of this step are of.
        self.indices: list[int] = []

    def attach(self, proposer: Any) -> None:
        """Takes any source that asks."""

    def begin(self, trees: Sequence[Tree]) -> None:
        """Notes the sequences."""
        self.indices = [tree.ask.index for tree in trees]

    def choose(self, proposals: Sequence[Drafted]) -> list[Nodes]:
        """Everything."""
        return [len(proposal.tokens) for proposal in proposals]


def levels(parents: Sequence[int]) -> int:
    """Tokens of the longest path of a draft tree."""
    depths: list[int] = []
    for parent in parents:
        depths.append(1 if parent < 0 else depths[parent] + 1)
    return max(depths, default=0)
