"""Draft nodes as branches of a prefix tree: a node that was expanded has a branch that ends with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from hornbeam.cache.tree import Branch, PrefixTree, Step

__all__ = ["Key", "NodeBranches"]

Key = tuple[int, int]
"""A sequence's index in the run, and a token's in its draft; -1 is the root."""


class NodeBranches:
    """The branches of one step's draft trees in ``tree``.

    ``forward(step, rows)`` runs the rows of a step and gives the logits of those named. Steps are opened for
    ``owner``; ``exact`` as :meth:`hornbeam.PrefixTree.step` has it.
    """

    def __init__(
        self,
        tree: PrefixTree,
        forward: Callable[[Step, Sequence[int]], Tensor],
        *,
        owner: object,
        exact: bool = True,
    ) -> None:
        self.tree = tree
        self.forward = forward
        self.owner = owner
        self.exact = exact
        self._branches: dict[Key, Branch] = {}

    def holds(self, node: Key) -> bool:
        """Whether a node was expanded."""
        return node in self._branches

    def expand(self, nodes: Sequence[Key], requests: Sequence[tuple[Key | Branch, list[int]]]) -> Tensor:
        """The logits after each node, in one forward pass.

        ``requests`` has one item a node: its parent, whose branch is forked, or for a root the branch to go
        on, which becomes the node's; and the tokens of its rows.
        """
        opened: list[Branch] = []
        try:
            for origin, _ in requests:
                opened.append(self._branches[origin].fork() if isinstance(origin, tuple) else origin)
            rows = [(branch, tokens, None) for branch, (_, tokens) in zip(opened, requests, strict=True)]
            with self.tree.step(rows, owner=self.owner, exact=self.exact) as step:
                logits = self.forward(step, [int(own[-1]) for own in step.rows])
                step.commit([range(len(tokens)) for _, tokens, _ in rows])
        except BaseException:
            for (origin, _), branch in zip(requests, opened, strict=False):
                if isinstance(origin, tuple):
                    branch.drop(keep=False)
            raise
        self._branches.update(zip(nodes, opened, strict=True))
        return logits

    def get(self, node: Key) -> Branch | None:
        """The branch that ends with a node's token, if it was expanded."""
        return self._branches.get(node)

    def clear(self, keep: Iterable[Branch] = ()) -> None:
        """Releases all branches but those to keep, and forgets all."""
        kept = {id(branch) for branch in keep}
        # Leaves first: a node whose last child is gone takes its tokens back.
        for branch in reversed(self._branches.values()):
            if id(branch) not in kept:
                branch.drop(keep=False)
        self._branches.clear()
