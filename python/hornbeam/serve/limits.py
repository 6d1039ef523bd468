"""What a server allows: sizes, counts and times."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Real

from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """The limits of a server. What exceeds one is answered with a status of 4xx that names it.

    Attributes:
        body_bytes: of the body of a request.
        new_tokens: of one answer; None for the model's context.
        sequences: of one request: its prompts times ``n``, or the items of a scoring request.
        open_requests: that are under way at a time, whether they are read, computed or written; the next is
            answered with 429.
        seconds: of one request, from its first byte to the last of its answer.
        drain_seconds: that a server that is told to stop gives to the requests under way.

    Raises:
        ArgumentError: one is below 1, or not a number.
    """

    body_bytes: int = 4 << 20
    new_tokens: int | None = None
    sequences: int = 64
    open_requests: int = 64
    seconds: float = 600.0
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "new_tokens" and value is None:
                continue
            if field.name.endswith("seconds"):
                is_number = isinstance(value, Real) and not isinstance(value, bool)
                if not is_number or not 0 < value < float("inf"):
                    raise ArgumentError(f"{field.name} is {value!r}, expected seconds above 0")
            else:
                whole_number(value, field.name, 1)
