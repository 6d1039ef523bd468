"""One sequence's draft in one step, and what verification says of it."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import torch

from hornbeam import cuda
from hornbeam.errors import ArgumentError
from hornbeam.speculation.declarations import logits_of, parents_of
from hornbeam.speculation.protocols import Drafted, Nodes

__all__ = ["StepDraft", "Verdict", "filled_parents"]


@dataclass(frozen=True)
class StepDraft:
    """One sequence's draft in one step: a tree of tokens below the pending one.

    ``parents[i]`` is the index of token ``i``'s parent, before it, or -1 for a child of the pending token.
    ``logits`` are those that the tokens were drawn from, ``[1 + len(tokens), V]``, where a ratio test
    wants them. ``nodes[i]`` is the token's index in the proposal that it comes from.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    logits: torch.Tensor | None = None
    nodes: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, proposal: Drafted, chosen: Nodes) -> StepDraft:
        """The chosen tokens of a proposal."""
        nodes = list(range(chosen)) if isinstance(chosen, int) else list(chosen)
        tokens = proposal.tokens
        parents = filled_parents(proposal)
        index = {node: i for i, node in enumerate(nodes)} | {-1: -1}
        for node in nodes:
            if not 0 <= node < len(tokens) or parents[node] not in index:
                raise ArgumentError(
                    f"the stop rule chose tokens {nodes} of a draft with parents {parents}, "
                    "expected tokens whose parents are chosen"
                )
        logits = logits_of(proposal)
        if logits is not None and len(nodes) < len(tokens):
            if nodes == list(range(len(nodes))):
                logits = logits[: 1 + len(nodes)]
            else:
                [rows] = cuda.upload([torch.tensor([0, *(node + 1 for node in nodes)])], logits.device)
                logits = logits[rows]
        return cls([tokens[node] for node in nodes], [index[parents[node]] for node in nodes], logits, nodes)

    @property
    def is_chain(self) -> bool:
        """Whether no token has two children."""
        return all(parent == index - 1 for index, parent in enumerate(self.parents))

    def rows(self, pending: int) -> tuple[list[int], list[int] | None]:
        """Tokens and parents of the request: the pending token, then the draft."""
        parents = None if self.is_chain else [-1, *(parent + 1 for parent in self.parents)]
        return [pending, *self.tokens], parents

    def path(self, index: int) -> list[int]:
        """The tokens from below the pending one to token ``index``, which is -1 for none."""
        found = []
        while index >= 0:
            found.append(self.tokens[index])
            index = self.parents[index]
        return found[::-1]

    def child(self, index: int, token: int) -> int | None:
        """The first child of token ``index``, or of the pending one for -1, that holds ``token``."""
        for at, parent in enumerate(self.parents):
            if parent == index and self.tokens[at] == token:
                return at
        return None


@dataclass(frozen=True)
class Verdict:
    """What verification says of one draft: the indices of the tokens kept, along one path, and the token
    that the target gives after them."""

    accepted: list[int]
    next_token: int


def filled_parents(proposal: Drafted) -> Seq[int]:
    """The parents of a proposal's tokens, those of a chain too."""
    parents = parents_of(proposal)
    return range(-1, len(proposal.tokens) - 1) if parents is None else parents
