"""Prompt lookup, by the rule of transformers and of vLLM: for comparison with them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

from hornbeam._native import NGramDraft, Proposal
from hornbeam.errors import ArgumentError
from hornbeam.speculation.protocols import as_ids

__all__ = ["NGram", "NGramDrafter"]


@dataclass(frozen=True)
class NGram:
    """Copies what followed the leftmost occurrence of the longest n-gram that ends the text.

    The defaults are those of transformers' ``prompt_lookup_num_tokens=10``; vLLM's ``ngram`` method
    with ``prompt_lookup_min``, ``prompt_lookup_max`` and ``num_speculative_tokens`` is
    ``NGram(min_ngram, max_ngram, max_length)``. transformers also drops candidates that a logits
    processor forbids; here verification rejects them. :class:`hornbeam.speculation.Suffix` supersedes it.

    Args:
        min_ngram: shortest n-gram looked for, in tokens.
        max_ngram: longest n-gram looked for.
        max_length: most tokens in a proposal.
        stop_ids: a proposal is cut before the first of these ids (end-of-sequence tokens).

    Raises:
        ArgumentError: unless 1 <= min_ngram <= max_ngram and 1 <= max_length.
    """

    min_ngram: int = 1
    max_ngram: int = 2
    max_length: int = 10
    stop_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("min_ngram", 1), ("max_ngram", self.min_ngram), ("max_length", 1)):
            if getattr(self, name) < least:
                raise ArgumentError(f"{name} is {getattr(self, name)}, expected at least {least}")

    def start(self, prompt_ids: Sequence[int]) -> NGramDrafter:
        """Keeps the prompt; there is no index, every proposal scans the text."""
        return NGramDrafter(self, prompt_ids)


class NGramDrafter:
    """:class:`NGram` at work on one sequence."""

    def __init__(self, settings: NGram, prompt_ids: Sequence[int]) -> None:
        self.settings = settings
        self._native = NGramDraft(
            as_ids(prompt_ids), settings.min_ngram, settings.max_ngram, settings.stop_ids
        )

    def extend(self, token_ids: Sequence[int]) -> None:
        """Appends committed tokens."""
        self._native.extend(as_ids(token_ids))

    def fork(self) -> NGramDrafter:
        """A second drafter at the same place."""
        child = copy(self)
        child._native = self._native.fork()
        return child

    def propose(self, pending: int | Sequence[int] = (), max_length: int | None = None) -> Proposal:
        """Guesses what follows the committed text and ``pending``; changes nothing."""
        limit = self.settings.max_length if max_length is None else min(max_length, self.settings.max_length)
        return self._native.propose(as_ids(pending), max(limit, 0))
