"""The caller's logits processors: what they are given, and what is held of their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hornbeam.errors import ArgumentError, ShapeError

__all__ = ["Processor", "RowProcessor", "checked", "is_pure", "row_processor"]

Processor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(token ids ``[B, n]``, raw logits ``[B, V]`` after them) -> logits ``[B, V]``, maybe the same tensor."""


def is_pure(processor: Any) -> bool:
    """Whether a processor's answer depends on its arguments alone, so that it may be asked about guesses too,
    in any order: where it says so by ``is_pure = True``."""
    return bool(getattr(processor, "is_pure", False))


class RowProcessor:
    """Processors that are asked about one row after the other.

    Args:
        processors: applied in this order.
        is_pure: whether they may be asked about guesses.
    """

    def __init__(self, processors: Sequence[Processor], is_pure: bool) -> None:
        self.processors = tuple(processors)
        self.is_pure = is_pure

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowProcessor) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Any, ...]:
        return (self.is_pure, *(id(processor) for processor in self.processors))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The logits ``[1, V]`` after ``input_ids [1, n]``. Processors get scores of their own, in float32,
        which they may write into."""
        scores = scores.to(torch.float32, copy=True)
        for processor in self.processors:
            scores = checked(processor, processor(input_ids, scores), scores)
        return scores


def row_processor(given: Any) -> RowProcessor | None:
    """What ``logits_processor=`` says: one processor, or several, which are applied one after the other.

    Raises:
        ArgumentError: one of them cannot be called.
    """
    if given is None or isinstance(given, RowProcessor):
        return given
    parts = list(given) if isinstance(given, (list, tuple)) else [given]
    for part in parts:
        if not callable(part):
            raise ArgumentError(
                f"logits_processor is {part!r}, expected a callable (token ids, logits) -> logits, or a list "
                "of them"
            )
    return RowProcessor(parts, all(is_pure(part) for part in parts)) if parts else None


def checked(processor: Any, found: Any, scores: torch.Tensor) -> torch.Tensor:
    """The answer of a processor.

    Raises:
        ShapeError: it is no tensor of the shape of its scores.
    """
    if not isinstance(found, torch.Tensor) or found.shape != scores.shape:
        got = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        name = getattr(processor, "__name__", type(processor).__name__)
        raise ShapeError(f"the logits processor {name} gave {got}, expected logits {list(scores.shape)}")
    return found
