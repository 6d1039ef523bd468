"""Beam search and diverse beam search over tokens, from their definitions: lists, sorted whole, in Python's
floats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

After = Callable[[list[int]], Sequence[float]]
"""The log-probabilities of the next token after some tokens."""
Beam = tuple[float, list[int]]


def beam_search(
    after: After,
    width: int,
    max_new_tokens: int,
    eos: Sequence[int] = (),
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
) -> list[Beam]:
    """The ``width`` best beams, the best first, with their scores.

    Of the best continuations of all beams, those among the first ``width`` that end are kept if they are
    among the best that ended; the first ``width`` that do not end go on.
    """
    return diverse_beam_search(after, width, 1, 0.0, max_new_tokens, eos, length_penalty, early_stopping)[0]


def diverse_beam_search(
    after: After,
    width: int,
    groups: int,
    diversity: float,
    max_new_tokens: int,
    eos: Sequence[int] = (),
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
) -> list[list[Beam]]:
    """Vijayakumar et al. 2016, algorithm 1, with ``Delta`` the negative number of equal tokens at this step
    (section 4, Hamming diversity): what each group found. A group ends as a beam search does."""
    own = width // groups
    running: list[list[Beam]] = [[(0.0, [])] for _ in range(groups)]
    ended: list[list[Beam]] = [[] for _ in range(groups)]
    is_over = [False] * groups
    for length in range(1, max_new_tokens + 1):
        chosen: list[int] = []
        for group in range(groups):
            if is_over[group]:
                continue
            candidates = [
                (score + logprob - diversity * chosen.count(token), [*tokens, token])
                for score, tokens in running[group]
                for token, logprob in enumerate(after(tokens))
            ]
            candidates.sort(key=lambda candidate: -candidate[0])
            is_last = length == max_new_tokens
            fresh = [
                (score / length**length_penalty, tokens)
                for score, tokens in candidates[:own]
                if is_last or tokens[-1] in eos
            ]
            ended[group] = sorted(ended[group] + fresh, key=lambda beam: -beam[0])[:own]
            running[group] = [beam for beam in candidates if beam[1][-1] not in eos][:own]
            is_full = len(ended[group]) == own
            horizon = max_new_tokens if early_stopping == "never" and length_penalty > 0 else length
            possible = running[group][0][0] / horizon**length_penalty
            is_hopeless = is_full and possible <= ended[group][-1][0]
            is_over[group] = is_last or is_hopeless or (early_stopping is True and is_full)
            if not is_over[group]:
                chosen += [tokens[-1] for _, tokens in running[group]]
    return ended
