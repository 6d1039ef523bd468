"""Logits processors and stopping criteria of transformers: what each needs to see.

Its own loop asks them once a step and in order, about the whole batch. Those that are known to answer from
their arguments alone (:func:`hornbeam.engine.processors.is_pure`) are asked row by row and along drafts;
others may keep state or look at several rows, and are asked as there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hornbeam.engine.processors import EachPrompt, is_pure
from hornbeam.errors import ArgumentError
from hornbeam.warp import Warp

__all__ = ["Criteria", "Processors"]

PURE_CRITERIA = ("MaxTimeCriteria", "StopStringCriteria")


def _is_one_of(value: Any, names: Sequence[str], module: Any) -> bool:
    return any(type(value) is getattr(module, name, None) for name in names)


@dataclass(frozen=True)
class Processors:
    """Processors as one :class:`hornbeam.Warp`, which runs natively, and those that run before it."""

    warp: Warp
    rest: tuple[Any, ...]
    is_pure: bool
    """Whether the rest may be asked along drafts, row by row."""
    num_rows: int
    """Prompts of the batch."""

    @classmethod
    def of(cls, processors: Any, do_sample: bool, padding: Sequence[int]) -> Processors:
        """A processor becomes a part of the warp only where none of the rest follows it.

        Args:
            processors: in the order of transformers.
            do_sample: whether the text is sampled.
            padding: tokens before each prompt of the batch.
        """
        from transformers.generation import logits_process as known

        options: dict[str, Any] = {}
        rest = list(processors or ())
        if any(isinstance(part, EachPrompt) for part in rest):
            raise ArgumentError(
                "logits_processor holds an hb.EachPrompt, expected it in hb.LM.generate: the processors of "
                "model.generate see the whole batch"
            )
        order = ["min_p", "top_p", "top_k", "temperature", "repetition_penalty"]
        while rest:
            name, value = _translated(rest[-1], padding, known)
            if name not in order:
                break
            order = order[order.index(name) + 1 :]
            options[name] = value
            rest.pop()
        if not do_sample:
            options = {k: v for k, v in options.items() if k == "repetition_penalty"} | {"temperature": 0.0}
        # A warp without one would be greedy.
        options = {"temperature": 1.0} | options
        is_row_wise = all(is_pure(part) or _is_of_rows(part, len(padding)) for part in rest)
        return cls(Warp(**options), tuple(rest), is_row_wise, len(padding))

    def by_row(self) -> EachPrompt | None:
        """The rest, to be asked about one row after the other."""
        if not self.rest:
            return None
        return EachPrompt(lambda index, _: [_of_row(part, index, self.num_rows) for part in self.rest])


def _is_of_rows(processor: Any, num_rows: int) -> bool:
    """Whether a processor is a repetition penalty that leaves out so many tokens of each row."""
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    ignored = getattr(processor, "prompt_ignore_length", None)
    is_penalty = type(processor) is RepetitionPenaltyLogitsProcessor
    return is_penalty and isinstance(ignored, torch.Tensor) and len(ignored) == num_rows


def _of_row(processor: Any, index: int, num_rows: int) -> Any:
    """A processor of a batch of so many rows for one of them."""
    if not _is_of_rows(processor, num_rows):
        return processor
    return type(processor)(processor.penalty, prompt_ignore_length=int(processor.prompt_ignore_length[index]))


def _translated(processor: Any, padding: Sequence[int], known: Any) -> tuple[str | None, Any]:
    """The field of a warp that a processor is, and its value; None for one that is none."""
    kind, lowest = type(processor), -float("inf")
    if kind is known.TemperatureLogitsWarper:
        return "temperature", float(processor.temperature)
    if kind is known.TopKLogitsWarper and processor.filter_value == lowest:
        return "top_k", int(processor.top_k)
    if kind is known.RepetitionPenaltyLogitsProcessor:
        ignored = getattr(processor, "prompt_ignore_length", None)
        left_out = ignored.tolist() if isinstance(ignored, torch.Tensor) else [ignored or 0] * len(padding)
        # A warp sees prompts without their padding.
        return ("repetition_penalty" if left_out == list(padding) else None), float(processor.penalty)
    for name, warper in (("top_p", known.TopPLogitsWarper), ("min_p", known.MinPLogitsWarper)):
        if kind is warper and (processor.min_tokens_to_keep, processor.filter_value) == (1, lowest):
            return name, float(getattr(processor, name))
    return None, None


@dataclass(frozen=True)
class Criteria:
    """Stopping criteria: end tokens and the greatest length, which run natively, and the rest."""

    eos_token_ids: tuple[int, ...]
    max_length: int | None
    rest: tuple[Any, ...]
    is_pure: bool
    """Whether the rest may be asked row by row."""
    ends_rows: bool
    """Whether a row ends by itself. In transformers it does where one of the criteria has end tokens; else
    every row goes on until all of them are to end."""

    @classmethod
    def of(cls, criteria: Any) -> Criteria:
        """Those of a call."""
        from transformers.generation import stopping_criteria as known

        eos: set[int] = set()
        lengths: list[int] = []
        rest = []
        for criterion in criteria or ():
            if type(criterion) is known.EosTokenCriteria:
                eos.update(criterion.eos_token_id.flatten().tolist())
            elif type(criterion) is known.MaxLengthCriteria:
                lengths.append(int(criterion.max_length))
            else:
                rest.append(criterion)
        is_pure = all(_is_one_of(criterion, PURE_CRITERIA, known) for criterion in rest)
        ends_rows = not rest or any(hasattr(criterion, "eos_token_id") for criterion in criteria)
        return cls(tuple(sorted(eos)), min(lengths, default=None), tuple(rest), is_pure, ends_rows)

    def by_row(self, device: torch.device) -> Callable[[list[int], list[int]], bool] | None:
        """The rest, to be asked about one row after each of its tokens."""
        if not self.rest:
            return None

        def stopped(prompt: list[int], output: list[int]) -> bool:
            seen = torch.tensor([[*prompt, *output]], device=device)
            # All of them, as transformers does: they may keep state.
            answers = [torch.as_tensor(criterion(seen, None)) for criterion in self.rest]
            return any(bool(answer.all()) for answer in answers)

        return stopped
