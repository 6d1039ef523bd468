"""What calls answer: generations, what they cost, and log-likelihoods."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

__all__ = ["Chunk", "Finish", "Generation", "Likelihood", "Piece", "Source", "Stats", "TokenLogprob"]

Finish = Literal["eos", "length", "stop", "context", "criterion", "scored", "interrupted", "cancelled"]
"""Why a text has ended: an end token, ``max_new_tokens``, a stop string, the model's context, a criterion; or
it was scored, interrupted or cancelled."""
Source = Literal["draft", "plain"]
"""Where a token came from: an accepted guess, or the model itself."""


class Piece(NamedTuple):
    """One emitted token, where it came from, and the text that became certain with it.

    Attributes:
        token: its id.
        source: where it came from.
        text: what became certain with it; may be empty, or more than the token's own.
    """

    token: int
    source: Source
    text: str


class Chunk(NamedTuple):
    """Some tokens of a stream that became certain together and come from the same source.

    Attributes:
        text: what became certain with them.
        token_ids: their ids.
        source: where they came from.
    """

    text: str
    token_ids: list[int]
    source: Source


class TokenLogprob(NamedTuple):
    """Natural logarithms under the raw model: of one token of a text, and of the likeliest at its place.

    Attributes:
        token_id: of the token.
        logprob: its log-probability.
    """

    token_id: int
    logprob: float
    top: list[tuple[int, float]]
    """(token id, log-probability), the likeliest first; of equal ones the lowest id first."""


@dataclass
class Stats:
    """What a generation cost.

    Attributes:
        prompt_tokens: tokens of the prompt.
        reused_tokens: those of them that the cache held.
        forward_passes: passes of decoding that this sequence took part in.
        rows: its rows in them.
        drafted: tokens that were verified for it.
        accepted: those of them that stayed.
        emitted: tokens of its answer.
        seconds: by phase, of all steps while it was under way.
        peak_kv_bytes: the most bytes of pages that the whole tree held.
        reductions: how often a recipe of :mod:`hornbeam.keep` let keys go.
        kv_bytes_before: bytes of its pages before the last time.
        kv_bytes: those after it.
        kept_share: the share of all keys seen that it kept, 0 to 1.
        attend_keys_read: with a recipe of :mod:`hornbeam.attend` the keys that its steps have read, over the
            kv heads of all layers without a window, dense ones included: each once a step, for whichever row
            of the step, those of other requests too.
        attend_keys: those that were there to be read, counted alike.
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
    attend_keys_read: int = 0
    attend_keys: int = 0

    @property
    def attend_share(self) -> float:
        """The share of the keys that was read, 0 to 1; 1 without a recipe."""
        return self.attend_keys_read / self.attend_keys if self.attend_keys else 1.0

    @property
    def tokens_per_second(self) -> float:
        """Emitted tokens of this sequence over the seconds of the decoding, prefill left out."""
        decoding = sum(spent for phase, spent in self.seconds.items() if phase != "prefill")
        return self.emitted / decoding if decoding else 0.0


@dataclass(repr=False)
class Generation:
    """The answer to one prompt.

    Attributes:
        text: without special tokens, and up to a stop string; empty without a tokenizer.
        token_ids: the end-of-sequence token included, where one was emitted.
        finish_reason: why it has ended.
        stats: what it cost.
        logprobs: one entry a token of ``token_ids``; None unless they were asked for.
        prompt_logprobs: one entry a token of the prompt, of which the first is None; None without ``echo``.
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

    Attributes:
        total: in nats.
        token_logprobs: in nats, one a token.
        is_greedy: whether greedy decoding would write it.
    """

    total: float
    token_logprobs: list[float]
    is_greedy: bool
