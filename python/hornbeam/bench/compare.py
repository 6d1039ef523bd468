"""Timing one generation, and plain transformers beside it on the same prompt and budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Clock", "Comparison", "Timing", "compare", "plain_generate"]


@dataclass(frozen=True)
class Timing:
    """How long a generation took. ``first_seconds`` passed until ``first_tokens`` tokens were there."""

    num_tokens: int
    seconds: float
    first_tokens: int
    first_seconds: float

    @property
    def total_rate(self) -> float | None:
        """Tokens a second, prefill included."""
        return self.num_tokens / self.seconds if self.num_tokens else None

    @property
    def decode_rate(self) -> float | None:
        """Tokens a second after the first ones appeared: prefill is left out."""
        rest = self.num_tokens - self.first_tokens
        return rest / (self.seconds - self.first_seconds) if rest > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Fields and rates, for JSON."""
        return asdict(self) | {
            "tokens_per_second": self.total_rate,
            "decode_tokens_per_second": self.decode_rate,
        }


class Clock:
    """A stream callback that notes when the first tokens came, and passes everything on."""

    def __init__(self, show: Callable[[str, list[int], str], None] | None = None) -> None:
        self.show = show
        self.begin = time.perf_counter()
        self.first: tuple[int, float] | None = None

    def __call__(self, text: str, tokens: list[int], source: str) -> None:
        if self.first is None and tokens:
            self.first = (len(tokens), time.perf_counter() - self.begin)
        if self.show is not None:
            self.show(text, tokens, source)

    def stop(self, num_tokens: int) -> Timing:
        """The timing of a run that ends now with ``num_tokens`` tokens."""
        seconds = time.perf_counter() - self.begin
        first_tokens, first_seconds = self.first or (num_tokens, seconds)
        return Timing(num_tokens, seconds, first_tokens, first_seconds)

    # What transformers' generate asks of a streamer: the prompt comes first, then each token.

    _prompt_seen = False

    def put(self, tokens: Any) -> None:
        if self._prompt_seen:
            self("", tokens.flatten().tolist(), "plain")
        self._prompt_seen = True

    def end(self) -> None:
        """Called once after the last token."""


@dataclass(frozen=True)
class Comparison:
    """Hornbeam and plain transformers on one prompt. ``first_difference`` is an index of a token."""

    hornbeam: Timing
    transformers: Timing
    identical: bool
    first_difference: int | None

    @property
    def total_ratio(self) -> float | None:
        """How many times as many tokens a second, prefill included."""
        return _ratio(self.hornbeam.total_rate, self.transformers.total_rate)

    @property
    def decode_ratio(self) -> float | None:
        """How many times as many tokens a second, prefill left out."""
        return _ratio(self.hornbeam.decode_rate, self.transformers.decode_rate)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "hornbeam": self.hornbeam.to_dict(),
            "transformers": self.transformers.to_dict(),
            "decode_ratio": self.decode_ratio,
            "total_ratio": self.total_ratio,
            "identical": self.identical,
            "first_difference": self.first_difference,
        }


def plain_generate(
    model: Any, prompt_ids: Sequence[int], max_new_tokens: int, fields: Mapping[str, Any] | None = None
) -> tuple[list[int], Timing]:
    """Greedy ``model.generate`` as transformers ships it: new token ids, and the timing.

    Args:
        model: a causal LM of transformers.
        prompt_ids: token ids.
        max_new_tokens: at most so many are added.
        fields: all that counts of a ``generation_config``, in place of the checkpoint's own; None is that.
    """
    import torch

    ids = torch.tensor([list(prompt_ids)], device=model.device)
    clock = Clock()
    with _config(model, fields):
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            streamer=clock,
        )
    new: list[int] = output[0, ids.shape[1] :].tolist()
    return new, clock.stop(len(new))


@contextmanager
def _config(model: Any, fields: Mapping[str, Any] | None) -> Iterator[None]:
    """For the block, ``model.generation_config`` has these fields alone: one given to ``generate`` would be
    filled up from the model's."""
    if fields is None:
        yield
        return
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(**{"pad_token_id": own.pad_token_id, **fields})
    try:
        yield
    finally:
        model.generation_config = own


def compare(
    model: Any,
    prompt_ids: Sequence[int],
    ours: Sequence[int],
    timing: Timing,
    budget: int,
    fields: Mapping[str, Any] | None = None,
) -> Comparison:
    """Runs plain transformers, as :func:`plain_generate` has it, and holds it to the tokens and the timing of
    our own run."""
    theirs, their_timing = plain_generate(model, prompt_ids, budget, fields)
    shorter = min(len(ours), len(theirs))
    difference = next((i for i in range(shorter) if ours[i] != theirs[i]), None)
    if difference is None and len(ours) != len(theirs):
        difference = shorter
    return Comparison(timing, their_timing, difference is None, difference)


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours and theirs else None
