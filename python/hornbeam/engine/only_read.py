"""Requests that are read to their end and write nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hornbeam.engine.options import Options
from hornbeam.engine.random_key import RandomKey
from hornbeam.engine.request import Request

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine

__all__ = ["OnlyRead"]


class OnlyRead(Request):
    """A text whose rows share steps with those of other requests, for what the model says of it.

    Args:
        engine: the engine.
        index: as :class:`Request` has it.
        tokens: the text's token ids.
        options: as :class:`Request` has the other arguments.
    """

    def __init__(self, engine: Engine, index: int, tokens: list[int], **options: Any) -> None:
        super().__init__(engine, index, RandomKey(0), tokens, Options.greedy(0), streams=False, **options)

    def _begin(self) -> None:
        super()._begin()
        self._ending = None  # it ends when it is read

    @property
    def wants_token(self) -> bool:
        """Never."""
        return False

    def read_to_the_end(self) -> None:
        """Ends it."""
        self._ending = ("scored", 0)
