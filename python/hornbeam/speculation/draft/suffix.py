"""Drafts by copying what followed an earlier occurrence of the text's suffix."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import ClassVar

from hornbeam._native import Proposal, SuffixCorpus, SuffixDraft, TreeProposal
from hornbeam.errors import ArgumentError
from hornbeam.speculation.protocols import as_ids

__all__ = ["Suffix", "SuffixDrafter"]

#: So many of a prompt's last tokens stand before a prediction too, so that they lead to its beginning.
LEAD_IN = 8


@dataclass(frozen=True)
class Suffix:
    """Suffix automaton over prompt, output and, if given, a shared corpus.

    After SuffixDecoding (Oliaro et al. 2024), with three differences: matches have no greatest
    length, the index is an automaton that costs amortised constant time a token, and how many
    tokens of a proposal are verified is left to the stop rule instead of being proportional to the
    match. Of the longest match the usual continuation is followed where there is one, and the
    latest elsewhere.

    Args:
        max_length: most tokens in a proposal.
        min_match: a shorter match proposes nothing, in tokens.
        corpus: documents to draw on besides the sequence itself; the longer match wins. See
            :func:`hornbeam.speculation.index_files` and :func:`hornbeam.speculation.open_corpus`.
        tree: proposes a tree instead of a chain: the continuations of highest estimated probability,
            wherever they branch (SuffixDecoding's tree mode). ``max_length`` then counts its tokens.
        min_probability: of a path in the tree, from count ratios.

    Raises:
        ArgumentError: if ``max_length`` or ``min_match`` is below 1, or ``min_probability`` outside of
            (0, 1].
    """

    takes_prediction: ClassVar[bool] = True

    max_length: int = 64
    min_match: int = 1
    corpus: SuffixCorpus | None = None
    tree: bool = False
    min_probability: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.min_probability <= 1:
            raise ArgumentError(f"min_probability is {self.min_probability}, expected above 0 and at most 1")
        for name in ("max_length", "min_match"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} is {getattr(self, name)}, expected at least 1")

    def start(self, prompt_ids: Sequence[int], prediction: Sequence[int] = ()) -> SuffixDrafter:
        """Indexes the prompt, a sequence or a tensor of one dimension, and the ``prediction`` of what follows
        it."""
        return SuffixDrafter(self, prompt_ids, prediction)


class SuffixDrafter:
    """:class:`Suffix` at work on one sequence."""

    def __init__(self, settings: Suffix, prompt_ids: Sequence[int], prediction: Sequence[int] = ()) -> None:
        self.settings = settings
        prompt, text = as_ids(prompt_ids), as_ids(prediction)
        # The prediction is as good as an earlier part of the text, in which the prompt was followed by it.
        before = [*prompt[-LEAD_IN:], *text] if text else []
        self._num_before = len(before)
        self._native = SuffixDraft(
            [*before, *prompt] if before else prompt, settings.corpus, settings.min_match
        )

    def extend(self, token_ids: Sequence[int]) -> None:
        """Appends committed tokens."""
        self._native.extend(as_ids(token_ids))

    def fork(self) -> SuffixDrafter:
        """A second drafter at the same place. They share the index until one of them adds to it."""
        child = copy(self)
        child._native = self._native.fork()
        return child

    def propose(
        self, pending: int | Sequence[int] = (), max_length: int | None = None
    ) -> Proposal | TreeProposal:
        """Guesses what follows the committed text and ``pending``, at most ``max_length`` tokens on a path;
        changes nothing."""
        settings = self.settings
        limit = settings.max_length if max_length is None else max(min(max_length, settings.max_length), 0)
        if settings.tree:
            return self._native.propose_tree(
                as_ids(pending), settings.max_length, limit, settings.min_probability
            )
        return self._native.propose(as_ids(pending), limit)

    @property
    def match_length(self) -> int:
        """Length of the longest suffix of the committed text that occurred earlier in it, or in a
        prediction."""
        return self._native.match_length

    @property
    def num_tokens(self) -> int:
        """Committed tokens."""
        return self._native.num_tokens - self._num_before

    @property
    def num_bytes(self) -> int:
        """Bytes of the index, without the corpus."""
        return self._native.num_bytes
