"""Prompt lookup as its two peers describe it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.reference.suffix import occurrences


def leftmost(text: Sequence[int], min_ngram: int, max_ngram: int, max_length: int) -> list[int]:
    """For n from ``max_ngram`` down to ``min_ngram``: the first place where the last n tokens
    occurred before; what followed there, cut at the end of the text."""
    for size in range(min(max_ngram, len(text) - 1), min_ngram - 1, -1):
        earlier = [end for end in occurrences(text, text[len(text) - size :]) if end < len(text) - 1]
        if earlier:
            return list(text[earlier[0] + 1 :][:max_length])
    return []
