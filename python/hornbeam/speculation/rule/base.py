"""What a verification rule is: how much of a draft stays, and which token comes next."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hornbeam import ops
from hornbeam.errors import ArgumentError
from hornbeam.speculation.protocols import Law
from hornbeam.speculation.step_draft import StepDraft, Verdict
from hornbeam.warp import Warp

__all__ = ["NativeRule", "Rule", "Verification", "Walk"]


@dataclass(frozen=True)
class Verification:
    """The drafts of some sequences that share a warp and a seed, and what the target says to them."""

    drafts: Sequence[StepDraft]
    """One a sequence."""
    logits: Tensor
    """``[N + B, V]``, raw: of each sequence the row after the pending token, then one after each token of
    its draft."""
    draft_logits: Tensor | None
    """The same rows of the draft, where the rule compares laws; rows that are not read may hold anything."""
    warp: Warp
    """How logits become the law that tokens are drawn from."""
    seed: int
    """Of the random numbers."""
    sequences: list[int]
    """Which random numbers each draws."""
    positions: list[int]
    """Logical position of the token after the pending one."""
    history: list[tuple[list[int], list[int]]] | None
    """Prompt and output of each, the pending token included, where the warp has penalties."""


class Walk:
    """One sequence's draft, as a rule in Python sees it. A token is named by its index in the draft; -1 is
    the pending one.

    Args:
        given: what is verified.
        place: the sequence's place in it.
        first_row: its first row of logits.
    """

    def __init__(self, given: Verification, place: int, first_row: int) -> None:
        draft = given.drafts[place]
        self.tokens: list[int] = draft.tokens
        """Token ids of the draft."""
        self.parents: list[int] = draft.parents
        """For each token the index of its parent, before it."""
        self._given = given
        self._draft = draft
        self._place = place
        self._first_row = first_row
        words = (given.seed, given.sequences[place], given.positions[place])
        digest = hashlib.blake2b(b"".join(word.to_bytes(8, "little") for word in words), digest_size=8)
        self._random = torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little") >> 1)

    def children(self, token: int = -1) -> list[int]:
        """The tokens below one, in the order in which they were drawn.

        Args:
            token: its index in the draft; -1 for the pending one.
        """
        return [index for index, parent in enumerate(self.parents) if parent == token]

    def target(self, token: int = -1) -> Tensor:
        """The target's warped law after a token, float64 ``[V]``.

        Args:
            token: its index in the draft; -1 for the pending one.
        """
        return self._law(self._given.logits, token)

    def drafted(self, token: int = -1) -> Tensor:
        """The draft's warped law after a token, float64 ``[V]``, for a rule with :attr:`Rule.compares`.

        Args:
            token: its index in the draft; -1 for the pending one.
        """
        assert self._given.draft_logits is not None, "the rule compares no laws"
        return self._law(self._given.draft_logits, token)

    def uniform(self) -> float:
        """The next random number, 0 to 1; the same ones for the same seed, sequence and position."""
        return float(torch.rand((), dtype=torch.float64, generator=self._random))

    def draw(self, weights: Tensor) -> int:
        """A token id, as likely as its share of ``weights`` ``[V]``, which are not negative."""
        total = weights.double().cumsum(0)
        last = int(torch.nonzero(weights)[-1])
        return min(int(torch.searchsorted(total, self.uniform() * float(total[-1]), right=True)), last)

    def _law(self, logits: Tensor, token: int) -> Tensor:
        history = None
        if self._given.history is not None:
            prompt, output = self._given.history[self._place]
            history = [(prompt, output + self._draft.path(token))]
        row = logits[self._first_row + 1 + token][None]
        return ops.probabilities(row.cpu(), self._given.warp, history=history)[0]


class Rule:
    """A verification rule. One of your own derives from it and overrides :meth:`walk`; ``verify=`` takes an
    object of it::

        class DrawAgain(hb.spec.Rule):
            name = "draw_again"

            def walk(self, draft):
                at, path = -1, []
                while True:
                    token = draft.draw(draft.target(at))
                    below = [child for child in draft.children(at) if draft.tokens[child] == token]
                    if not below:
                        return path, token
                    at = below[0]
                    path.append(at)

    Attributes:
        name: how ``verify=`` and messages call it.
        compares: the laws of drawn tokens that it is exact for because it compares the draft's law with the
            target's; none for a rule that reads no law of the draft. A draft whose tokens were chosen, not
            drawn, has no law to compare: it is verified by ``coupled`` then.
        is_exact: whether the text keeps the target's law.
        shares_noise: whether it draws with the noise of :func:`hornbeam.ops.sample`, so that a draft that is
            drawn with it too agrees as often as can be.
    """

    name: ClassVar[str]
    compares: ClassVar[frozenset[Law]] = frozenset()
    is_exact: ClassVar[bool] = True
    shares_noise: ClassVar[bool] = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def walk(self, draft: Walk) -> tuple[list[int], int]:
        """The indices of the accepted tokens, which are a path from the root, and the token id after them.

        Args:
            draft: one sequence's draft, and what the target says to it.
        """
        raise ArgumentError(f"{type(self).__name__} has no method walk, expected a class that overrides it")

    def verify(self, given: Verification) -> list[Verdict]:
        """A verdict on every draft.

        Args:
            given: the drafts of the sequences that share a warp and a seed.

        Raises:
            ArgumentError: :meth:`walk` gave no path of the draft, or no token of the model.
        """
        verdicts, row = [], 0
        for place, draft in enumerate(given.drafts):
            path, token = self.walk(Walk(given, place, row))
            self._check(draft, path, token, given.logits.shape[1])
            verdicts.append(Verdict(list(path), token))
            row += 1 + len(draft.tokens)
        return verdicts

    def _check(self, draft: StepDraft, path: Sequence[int], token: int, vocab_size: int) -> None:
        above = -1
        for node in path:
            if not 0 <= node < len(draft.tokens) or draft.parents[node] != above:
                raise ArgumentError(
                    f"the rule {self.name} accepted tokens {list(path)} of a draft with parents "
                    f"{draft.parents}, expected a path from the root"
                )
            above = node
        if not 0 <= token < vocab_size:
            raise ArgumentError(f"the rule {self.name} gave token id {token}, expected 0 to {vocab_size - 1}")


class NativeRule(Rule):
    """A rule that :func:`hornbeam.ops.verify` knows by its name."""

    def parameters(self) -> dict[str, float]:
        """Those of :func:`hornbeam.ops.verify` that are this rule's own."""
        return {}

    def verify(self, given: Verification) -> list[Verdict]:
        """One call for all."""
        offsets = [0]
        for draft in given.drafts:
            offsets.append(offsets[-1] + len(draft.tokens))
        verified = ops.verify(
            torch.tensor([token for draft in given.drafts for token in draft.tokens], dtype=torch.int64),
            torch.tensor([parent for draft in given.drafts for parent in draft.parents], dtype=torch.int32),
            torch.tensor(offsets, dtype=torch.int32),
            given.logits,
            given.draft_logits,
            rule=self.name,
            warp=given.warp,
            draft_warp=given.warp,
            seed=given.seed,
            sequences=torch.tensor(given.sequences, dtype=torch.int64),
            positions=torch.tensor(given.positions, dtype=torch.int64),
            history=given.history,
            **self.parameters(),  # type: ignore[arg-type]
        )
        return [Verdict([row - 1 for row in rows], token) for rows, token in verified.paths()]
