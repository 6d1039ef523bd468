"""What calls answer: generations, what they cost, and log-likelihoods."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

__all__ = ["Chunk", "Finish", "Generation", "Likelihood", "Piece", "Source", "Stats", "TokenLogprob"]

Finish = Literal["eos", "length", "stop", "context", "criterion", "scored", "interrupted", "cancelled"]
Source = Literal["draft", "plain"]


class Piece(NamedTuple):
    """One emitted token, where it came from, and the text that became certain with it."""

    token: int
    source: Source
    text: str


class Chunk(NamedTuple):
    """Some tokens of a stream that became certain together and come from the same source."""

    text: str
    token_ids: list[int]
    source: Source


class TokenLogprob(NamedTuple):
    """Natural logarithms under the raw model: of one token of a text, and of the likeliest at its place."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]
    """(token id, log-probability), the likeliest first; of equal ones the lowest id first."""


@dataclass
class Stats:
    """What a generation cost.

    ``forward_passes``, ``rows``, ``drafted``, ``accepted`` and ``emitted`` count this sequence's share of
    the decoding. ``seconds`` by phase are those of all steps while it was under way; ``peak_kv_bytes``
    belongs to the tree. With a recipe of :mod:`hornbeam.keep`: ``reductions`` counts how often keys were let
    go; ``kv_bytes_before`` are the bytes of pages before the last time, ``kv_bytes`` those after it, and
    ``kept_share`` is the share of all keys seen that it kept.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    forward_passes: int = 0
    rows: int = 0
    drafted: int = 0
    accepted: int = 0
    emitted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_kv_bytes: int = 0
    reductions: int = 0
    kv_bytes_before: int = 0
    kv_bytes: int = 0
    kept_share: float = 1.0

    @property
    def tokens_per_second(self) -> float:
        """Emitted tokens of this sequence over the seconds of the decoding, prefill left out."""
        decoding = sum(spent for phase, spent in self.seconds.items() if phase != "prefill")
        return self.emitted / decoding if decoding else 0.0


@dataclass(repr=False)
class Generation:
    """The answer to one prompt.

    ``token_ids`` includes the end-of-sequence token where one was emitted; ``text`` leaves special tokens out
    and ends before a stop string; it is empty without a tokenizer. ``logprobs`` has one entry a token of
    ``token_ids`` if they were asked for, and ``prompt_logprobs`` one a token of the prompt, of which the
    first is None, if ``echo`` was.
    """

    text: str
    token_ids: list[int]
    finish_reason: Finish
    stats: Stats
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None

    def __repr__(self) -> str:
        shown = self.text if len(self.text) <= 60 else f"{self.text[:59]}…"
        return f"<Generation {shown!r}: {self._facts}>"

    def _repr_html_(self) -> str:
        """The text and what it cost, for notebooks."""
        return (
            f'<div style="white-space: pre-wrap">{html.escape(self.text)}</div>'
            f'<div style="opacity: .65; font-size: smaller">{html.escape(self._facts)}</div>'
        )

    @property
    def _facts(self) -> str:
        """What came out, in a line."""
        facts = [f"{len(self.token_ids)} tokens", f"finish_reason {self.finish_reason}"]
        if self.stats.tokens_per_second:
            facts.append(f"{self.stats.tokens_per_second:.1f} tokens/s")
        if self.stats.drafted:
            facts.append(f"{self.stats.accepted} of {self.stats.drafted} drafted tokens accepted")
        return ", ".join(facts)


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihood of a continuation.

    ``total`` in nats, ``token_logprobs`` one a token; ``is_greedy`` says whether greedy decoding would write
    it.
    """

    total: float
    token_logprobs: list[float]
    is_greedy: bool
