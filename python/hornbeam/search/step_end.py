"""Where a step of a path ends."""

from __future__ import annotations

from dataclasses import dataclass

from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number

__all__ = ["StepEnd"]


@dataclass(frozen=True)
class StepEnd:
    """A step ends with the token that completes ``delimiter`` behind some text, with an end token, or after
    ``max_tokens``.

    Attributes:
        delimiter: text; None for steps of ``max_tokens`` alone.
        max_tokens: of a step.

    Raises:
        ArgumentError: the delimiter is empty or no text, or ``max_tokens`` is not at least 1.
    """

    delimiter: str | None = "\n"
    max_tokens: int = 64

    def __post_init__(self) -> None:
        if self.delimiter is not None and (not isinstance(self.delimiter, str) or not self.delimiter):
            raise ArgumentError(f"delimiter is {self.delimiter!r}, expected some text or None")
        object.__setattr__(self, "max_tokens", whole_number(self.max_tokens, "max_tokens", 1))

    def is_met(self, text: str) -> bool:
        """Whether a step with this ``text`` is whole. Delimiters before anything else do not count."""
        if self.delimiter is None:
            return False
        while text.startswith(self.delimiter):
            text = text[len(self.delimiter) :]
        return self.delimiter in text and bool(text.partition(self.delimiter)[0].strip())
