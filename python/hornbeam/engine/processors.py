"""The caller's logits processors: what they are given, and what is held of their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import isbuiltin, isfunction
from typing import Any

import torch

from hornbeam.errors import ArgumentError, ShapeError

__all__ = [
    "EachPrompt",
    "Processor",
    "RowProcessor",
    "check_shared",
    "checked",
    "is_pure",
    "row_processor",
]

Processor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(token ids ``[B, n]``, raw logits ``[B, V]`` after them) -> logits ``[B, V]``, maybe the same tensor."""

_MODULE = "transformers.generation.logits_process"
# The processors of transformers that answer from their arguments alone, row by row.
_KNOWN = {
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "ExponentialDecayLengthPenalty",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "MinPLogitsWarper",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "RepetitionPenaltyLogitsProcessor",
    "SequenceBiasLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopHLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
}


def is_pure(processor: Any) -> bool:
    """Whether a processor's answer depends on its arguments alone, so that it may be asked about guesses too,
    in any order: where it says so by ``is_pure = True``, or is exactly of a class of transformers that is
    known for it."""
    if type(processor).__module__ == _MODULE:
        # A penalty with one count of ignored tokens a row looks at which row it is asked about.
        ignored = getattr(processor, "prompt_ignore_length", None)
        return type(processor).__name__ in _KNOWN and not isinstance(ignored, torch.Tensor)
    return bool(getattr(processor, "is_pure", False))


def _keeps_state(processor: Any) -> bool:
    """Whether a processor may answer by what it was asked before. Functions are taken not to."""
    while isinstance(processor, partial):
        processor = processor.func
    return not (is_pure(processor) or isfunction(processor) or isbuiltin(processor))


class RowProcessor:
    """Processors that are asked about one row after the other.

    Args:
        processors: applied in this order.
        is_pure: whether they may be asked about guesses.
    """

    def __init__(self, processors: Sequence[Processor], is_pure: bool) -> None:
        self.processors = tuple(processors)
        self.is_pure = is_pure

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The logits ``[1, V]`` after ``input_ids [1, n]``. Processors get scores of their own, in float32,
        which they may write into."""
        scores = scores.to(torch.float32, copy=True)
        for processor in self.processors:
            scores = checked(processor, processor(input_ids, scores), scores)
        return scores

    @property
    def stateful(self) -> str | None:
        """The name of one that may keep state between calls, if there is one."""
        return next((_name(part) for part in self.processors if _keeps_state(part)), None)


@dataclass(frozen=True)
class EachPrompt:
    """Gives each sequence of a call a logits processor of its own: for those that keep state, as the matchers
    of grammars do.

        grammars = hb.EachPrompt(lambda index, prompt_ids: Grammar(schemas[index]))
        lm.generate(prompts, logits_processor=grammars)

    Args:
        factory: ``(index, prompt_ids) -> processor``, called once for each sequence before its first step,
            and again for every :meth:`Request.extend`: its place in the call, counted over all samples, and
            the token ids of its prompt. It gives a processor, a list of them, or None.

    Raises:
        ArgumentError: the factory cannot be called.
    """

    factory: Callable[[int, list[int]], Any]

    def __post_init__(self) -> None:
        if not callable(self.factory):
            raise ArgumentError(
                f"factory is {self.factory!r}, expected a callable (index, prompt_ids) -> processor"
            )

    def made(self, index: int, prompt: Sequence[int]) -> RowProcessor | None:
        """What the factory gives for a sequence, by its ``index`` and ``prompt``.

        Raises:
            ArgumentError: it is no processor.
        """
        found = row_processor(
            self.factory(index, list(prompt)), f"what the factory of EachPrompt gave for sequence {index}"
        )
        if isinstance(found, EachPrompt):
            raise ArgumentError(f"the factory of EachPrompt gave an EachPrompt for sequence {index}")
        return found


def row_processor(given: Any, name: str = "logits_processor") -> RowProcessor | EachPrompt | None:
    """What ``logits_processor=`` says: one processor, or several, which are applied one after the other.

    Raises:
        ArgumentError: one of them cannot be called.
    """
    if given is None or isinstance(given, (RowProcessor, EachPrompt)):
        return given
    parts = list(given) if isinstance(given, (list, tuple)) else [given]
    for part in parts:
        if not callable(part) and not isinstance(part, EachPrompt):
            raise ArgumentError(
                f"{name} is {part!r}, expected a callable (token ids, logits) -> logits, or a list of them"
            )
    if any(isinstance(part, EachPrompt) for part in parts):
        return EachPrompt(partial(_together, parts))
    return RowProcessor(parts, all(is_pure(part) for part in parts)) if parts else None


def check_shared(processor: RowProcessor | EachPrompt | None, what: str, instead: str = "") -> None:
    """Raises ArgumentError where a processor that may keep state would do ``what``, which takes none."""
    name = processor.stateful if isinstance(processor, RowProcessor) else None
    if name is not None:
        raise ArgumentError(
            f"the logits processor {name} may keep state, so that it cannot {what}: expected {instead}a "
            "processor with is_pure = True"
        )


def _together(parts: Sequence[Any], index: int, prompt: list[int]) -> list[Processor]:
    """The processors of a sequence where some are its own."""
    found: list[Processor] = []
    for part in parts:
        made = part.made(index, prompt) if isinstance(part, EachPrompt) else RowProcessor([part], False)
        found.extend(() if made is None else made.processors)
    return found


def _name(processor: Any) -> str:
    return str(getattr(processor, "__name__", type(processor).__name__))


def checked(processor: Any, found: Any, scores: torch.Tensor) -> torch.Tensor:
    """The answer of a processor.

    Raises:
        ShapeError: it is no tensor of the shape of its scores.
    """
    if not isinstance(found, torch.Tensor) or found.shape != scores.shape:
        got = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise ShapeError(
            f"the logits processor {_name(processor)} gave {got}, expected logits {list(scores.shape)}"
        )
    return found
