"""What a value is: of a batch of paths, one number each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hornbeam.errors import ArgumentError
from hornbeam.search.path import Path
from hornbeam.text import decode

__all__ = ["OpenValue", "SearchFacts", "Value", "ValueTraits", "open_value", "said_of", "values_of"]


@dataclass(frozen=True)
class SearchFacts:
    """What a value may know of the search that it is opened for."""

    prompt: Any
    """As the caller gave it, where that is text or chat messages; else the text of its tokens, or None if
    there is no tokenizer."""
    prompt_ids: list[int]
    """The prompt's tokens."""
    has_text: bool
    """Whether paths come with text: the model that searches has a tokenizer."""
    hidden_size: int
    """Numbers of a hidden state of the model."""


class OpenValue:
    """A value at work on one search.

    Args:
        value: what is asked, unless :meth:`__call__` is overridden.
    """

    def __init__(self, value: Callable[[Sequence[Path]], Any] | None = None) -> None:
        self._value = value

    def __call__(self, paths: Sequence[Path]) -> Any:
        """One number a path."""
        if self._value is None:
            raise ArgumentError(
                f"{type(self).__name__} has no method __call__, expected a class that has one"
            )
        return self._value(paths)

    def forget(self, nodes: Sequence[int]) -> None:
        """Nothing goes on from the paths that end at these ``nodes`` any more."""

    def close(self) -> None:
        """The search has ended, well or not. Called once."""


class Value:
    """What a path is worth. Any callable on a list of :class:`hornbeam.search.Path` will do as one; what this
    class declares, any other class may declare too.
    """

    needs_hidden: ClassVar[bool] = False
    """Whether paths come with :attr:`hornbeam.search.Path.hidden`."""

    def __call__(self, paths: Sequence[Path]) -> Any:
        """One finite number a path, higher is better: a list, or a tensor or an array ``[paths]``."""
        raise ArgumentError(f"{type(self).__name__} has no method __call__, expected a class that has one")

    def open(self, facts: SearchFacts) -> OpenValue:
        """Begins a search, of which ``facts`` are known. What is given is asked in its place, and told what
        is let go of and when the search has ended."""
        return OpenValue(self)


@dataclass(frozen=True)
class ValueTraits:
    """What a callable declares of what :class:`Value` has. This class alone knows what stands for that which
    is left out."""

    needs_hidden: bool
    open: Callable[[SearchFacts], Any] | None

    @classmethod
    def of(cls, value: Any) -> ValueTraits:
        """Those of a callable."""
        return cls(bool(getattr(value, "needs_hidden", False)), getattr(value, "open", None))


def open_value(value: Any, facts: SearchFacts) -> OpenValue:
    """A value at work on a search.

    Raises:
        ArgumentError: the value does not fit the search, or its ``open`` gave something else.
    """
    begin = ValueTraits.of(value).open
    opened = OpenValue(value) if begin is None else begin(facts)
    if not isinstance(opened, OpenValue):
        raise ArgumentError(
            f"open of the value {type(value).__name__} gave {opened!r}, expected a hornbeam.search.OpenValue"
        )
    return opened


def said_of(tokenizer: Any, prompt: Any, prompt_ids: list[int]) -> Any:
    """One prompt as values are told of it, see :attr:`SearchFacts.prompt`."""
    is_chat = isinstance(prompt, (list, tuple)) and bool(prompt) and isinstance(prompt[0], Mapping)
    if isinstance(prompt, str) or is_chat:
        return prompt
    return None if tokenizer is None else decode(tokenizer, prompt_ids)


def values_of(value: Any, paths: Sequence[Path]) -> list[float]:
    """What ``value`` says of the paths.

    Raises:
        ArgumentError: it gave not one finite number a path.
    """
    found = value(paths)
    if hasattr(found, "tolist"):
        found = found.tolist()
    if not isinstance(found, (list, tuple)) or len(found) != len(paths):
        got = f"{len(found)} values" if isinstance(found, (list, tuple)) else repr(found)
        raise ArgumentError(f"value gave {got} for {len(paths)} paths, expected one number a path")
    for one in found:
        if isinstance(one, bool) or not isinstance(one, (int, float)) or not abs(one) <= sys.float_info.max:
            raise ArgumentError(f"value gave {one!r} for a path, expected a finite number")
    return [float(one) for one in found]
