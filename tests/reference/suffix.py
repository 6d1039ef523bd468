"""Suffix matching from its definition: every earlier occurrence is looked for."""

from __future__ import annotations

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


def chain(
    text: Sequence[int], pending: Sequence[int], max_length: int, min_match: int = 1, usual: float = 0.6
) -> tuple[list[int], list[int], list[int], list[float]]:
    """The proposal after ``text + pending``: tokens, match lengths, counts and confidences.

    Only occurrences with a successor in the text count. After a context that has several, follow
    the token that most of them went on with if its share is ``usual``, else the latest one; after
    one that has a single occurrence (or none but the text's end), copy what comes after it."""
    tokens: list[int] = []
    lengths: list[int] = []
    counts: list[int] = []
    confidences: list[float] = []
    length = earlier_match(text, pending)
    whole = [*text, *pending]
    copied = None
    while len(tokens) < max_length and length >= max(min_match, 1):
        ends = followed(text, whole[len(whole) - length :])
        if copied is not None or len(ends) <= 1:
            copied = copied + 1 if copied is not None else (ends[0] if ends else len(text) - 1) + 1
            token, count, share = whole[copied], 1, 0.5
        else:
            shares = {
                token: max(len(followed(text, [*whole[len(whole) - length :], token])), 1) / (len(ends) + 1)
                for token in {text[end + 1] for end in ends}
            }
            likely = max(shares, key=lambda token: shares[token])
            token = likely if shares[likely] >= usual else text[ends[-1] + 1]
            count, share = len(ends), shares[token]
        tokens.append(token)
        whole.append(token)
        lengths.append(length)
        counts.append(count)
        confidences.append(share)
        length += 1
    return tokens, lengths, counts, confidences


def followed(text: Sequence[int], pattern: Sequence[int]) -> list[int]:
    """Ends of the occurrences of ``pattern`` after which the text goes on."""
    return [end for end in occurrences(text, pattern) if end + 1 < len(text)]


def tree(
    text: Sequence[int],
    pending: Sequence[int],
    max_tokens: int,
    max_depth: int,
    least: float,
    min_match: int = 1,
) -> list[tuple[float, tuple[int, ...]]]:
    """Every continuation of the longest match up to ``max_depth`` tokens, most probable first: the product
    of count ratios (SuffixDecoding, section 3.2), and the tokens. The first ``max_tokens`` of them are a
    tree, up to the order of equals."""
    found: list[tuple[float, tuple[int, ...]]] = []

    def grow(path: tuple[int, ...], length: int, probability: float, copied: int | None) -> None:
        if len(path) == max_depth:
            return
        whole = [*text, *pending, *path]
        ends = followed(text, whole[len(whole) - length :])
        if copied is not None or len(ends) <= 1:
            at = copied + 1 if copied is not None else (ends[0] if ends else len(text) - 1) + 1
            options = [(whole[at], probability, at)]
        else:
            options = [
                (
                    token,
                    probability
                    * max(len(followed(text, [*whole[len(whole) - length :], token])), 1)
                    / len(ends),
                    None,
                )
                for token in sorted({text[end + 1] for end in ends})
            ]
        for token, chance, at in options:
            if chance >= least:
                found.append((chance, (*path, token)))
                grow((*path, token), length + 1, chance, at)

    length = earlier_match(text, pending)
    if length >= max(min_match, 1):
        grow((), length, 1.0, None)
    return sorted(found, key=lambda item: (-item[0], len(item[1])))
