"""The proposer of a source that runs the target itself, in forks of the target's own branches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from hornbeam.cache.tree import Branch, Step
from hornbeam.speculation.branches import Key, NodeBranches
from hornbeam.speculation.draft.model_proposer import ModelProposer
from hornbeam.speculation.protocols import Run
from hornbeam.speculation.tree_building import Node, Shape

__all__ = ["SelfProposer"]


class SelfProposer(ModelProposer):
    """Runs nodes of the drafts that grow as rows of the target's tree. A source derives from it, implements
    :meth:`forward`, and lets go of the branches by ``nodes.clear()``."""

    def __init__(self, run: Run, shape: Shape) -> None:
        super().__init__(run, shape)
        #: The branches of nodes that were expanded.
        self.nodes = NodeBranches(run.target.tree, self.forward, owner=run.target, exact=False)

    @abstractmethod
    def forward(self, step: Step, rows: Sequence[int]) -> Tensor:
        """Runs the rows of a step, and gives the logits of those named."""

    def expand(self, nodes: Sequence[Node]) -> Tensor:
        """One ragged forward pass over forks of the target's branches."""
        requests: list[tuple[Key | Branch, list[int]]] = []
        roots: list[Branch] = []
        try:
            for node in nodes:
                tree = self.growing[node.tree]
                if node.token < 0:
                    assert tree.ask.branch is not None, "the ask brings no branch"
                    roots.append(tree.ask.branch.fork())
                    requests.append((roots[-1], [tree.ask.pending]))
                else:
                    parent = Node(node.tree, tree.parents[node.token])
                    requests.append((self.key(parent), [tree.tokens[node.token]]))
            return self.nodes.expand([self.key(node) for node in nodes], requests)
        except BaseException:
            for root in roots:
                root.drop(keep=False)
            raise

    def key(self, node: Node) -> Key:
        """What a node is called among the branches."""
        tree = self.growing[node.tree]
        return tree.ask.index, node.token if node.token < 0 else tree.numbers[node.token]
