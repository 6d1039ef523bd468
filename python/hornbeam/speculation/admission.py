"""What of a proposal is taken in: drafts come from everywhere, and some do not fit the model.

A corpus of another tokenizer, a damaged table, or a source that somebody has written: ids that the model
does not have are dropped, with all that hangs below them. What is no tree at all is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hornbeam._native import Signals
from hornbeam.errors import ArgumentError
from hornbeam.speculation.declarations import logits_of, parents_of
from hornbeam.speculation.protocols import Drafted, Law

__all__ = ["Admitted", "admitted", "check_count"]


@dataclass(frozen=True)
class Admitted:
    """What is left of a proposal. ``origin[i]`` is the token's index in what the source proposed."""

    tokens: list[int]
    signals: Signals
    parents: list[int] | None
    logits: Tensor | None
    origin: list[int]


def admitted(
    proposal: Drafted, source: str, *, vocab_size: int, max_tokens: int, law: Law, is_ratio_test: bool
) -> Drafted:
    """The proposal without tokens that the model does not have, without those deeper than was asked for, and
    without what hangs below either; the proposal itself, where it has none.

    Args:
        proposal: what a source gave.
        source: its name.
        vocab_size: tokens of the model.
        max_tokens: levels that were asked for.
        law: the source's.
        is_ratio_test: the verification compares laws. Then a drawn token cannot be dropped for what it is:
            that would move the text's law.

    Raises:
        ArgumentError: the lists differ in length, a parent is not a token before its child, siblings of a law
            without repetition are equal, or a token under a ratio test is not of the model.
    """
    tokens = proposal.tokens
    parents = parents_of(proposal)
    if len(proposal.signals) != len(tokens) or (parents is not None and len(parents) != len(tokens)):
        raise ArgumentError(
            f"the draft {source} proposed {len(tokens)} tokens with {len(proposal.signals)} signals"
            + ("" if parents is None else f" and {len(parents)} parents")
            + ", expected as many of each"
        )
    is_foreign = bool(tokens) and not 0 <= min(tokens) <= max(tokens) < vocab_size
    if is_foreign and is_ratio_test:
        bad = next(token for token in tokens if not 0 <= token < vocab_size)
        raise ArgumentError(
            f"the draft {source} drew token id {bad}, expected 0 to {vocab_size - 1}: a ratio test is exact "
            "only for the law that tokens were drawn from, so that none can be dropped"
        )
    if parents is None:
        if not is_foreign and len(tokens) <= max(max_tokens, 0):
            return proposal
        inside = [0 <= token < vocab_size for token in tokens]
        kept = list(range(min((*inside, False).index(False), max(max_tokens, 0))))
    else:
        kept = _kept(tokens, parents, source, vocab_size, max_tokens, law)
        if len(kept) == len(tokens):
            return proposal
    return _part(proposal, parents, kept)


def check_count(proposals: Sequence[Drafted], num_asks: int, source: str) -> None:
    """Raises ArgumentError unless there is one proposal an ask."""
    if len(proposals) != num_asks:
        raise ArgumentError(
            f"the draft {source} gave {len(proposals)} proposals for {num_asks} sequences, expected one each"
        )


def _kept(
    tokens: Sequence[int], parents: Sequence[int], source: str, vocab_size: int, max_tokens: int, law: Law
) -> list[int]:
    """The tokens of a tree that fit, after looking whether it is one."""
    kept = []
    depths: dict[int, int] = {-1: 0}  # of the tokens that fit
    seen: set[tuple[int, int]] = set()
    may_repeat = law in ("with_replacement", "mixed")
    for node, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
        if not -1 <= parent < node:
            raise ArgumentError(
                f"the draft {source} proposed parent {parent} of token {node}, "
                "expected -1 or a token before it"
            )
        if parent not in depths or depths[parent] >= max_tokens or not 0 <= token < vocab_size:
            continue
        if not may_repeat and (parent, token) in seen:
            raise ArgumentError(
                f"the draft {source} proposed token id {token} twice below token {parent}, "
                f"expected different siblings of a draft whose law is {law!r}"
            )
        seen.add((parent, token))
        depths[node] = depths[parent] + 1
        kept.append(node)
    return kept


def _part(proposal: Drafted, parents: Sequence[int] | None, kept: list[int]) -> Admitted:
    signals = proposal.signals
    index = {node: at for at, node in enumerate(kept)} | {-1: -1}
    logits = logits_of(proposal)
    confidences, lengths, counts = signals.confidences, signals.match_lengths, signals.counts
    return Admitted(
        [proposal.tokens[node] for node in kept],
        Signals(
            [confidences[node] for node in kept],
            [lengths[node] for node in kept],
            [counts[node] for node in kept],
        ),
        None if parents is None else [index[parents[node]] for node in kept],
        None if logits is None else logits[[0, *(node + 1 for node in kept)]],
        kept,
    )
