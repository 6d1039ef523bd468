"""Suffix matching from its definition: every earlier occurrence is looked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def occurrences(text: Sequence[int], pattern: Sequence[int]) -> list[int]:
    """Indices of the last token of every occurrence of ``pattern`` (not empty) in ``text``."""
    size = len(pattern)
    pattern = list(pattern)
    return [
        start + size - 1
        for start in range(len(text) - size + 1)
        if list(text[start : start + size]) == pattern
    ]


def earlier_match(text: Sequence[int], pending: Sequence[int] = ()) -> int:
    """Length of the longest suffix of ``text + pending`` that occurs in ``text``, ending before
    the end of ``text + pending``; 0 if none does."""
    whole = [*text, *pending]
    for length in range(len(whole), 0, -1):
        if any(end < len(whole) - 1 for end in occurrences(text, whole[len(whole) - length :])):
            return length
    return 0


def latest_continuation(text: Sequence[int], length: int, max_length: int) -> list[int]:
    """What followed the latest earlier occurrence of the suffix of ``length`` tokens, continued into
    itself where the text ends."""
    whole = list(text)
    end = [end for end in occurrences(whole, whole[len(whole) - length :]) if end < len(whole) - 1][-1]
    for index in range(end + 1, end + 1 + max_length):
        whole.append(whole[index])
    return whole[len(text) :]


def successors(text: Sequence[int], context: Sequence[int]) -> Counter[int]:
    """How often each token followed ``context`` in ``text``."""
    return Counter(text[end + 1] for end in occurrences(text, context) if end + 1 < len(text))
