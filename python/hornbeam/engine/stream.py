"""Tokens of one request as they become certain: an iterator and an async iterator."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hornbeam.errors import StateError
from hornbeam.results import Chunk, Generation

if TYPE_CHECKING:
    from types import TracebackType

    from hornbeam.engine.engine import Engine
    from hornbeam.engine.request import Request

__all__ = ["TokenStream"]


class TokenStream:
    """Chunks of a request's text. Ends with the request; the request ends with the stream, at the latest when
    the stream is collected.

    Attributes:
        request: what is streamed.
    """

    def __init__(self, engine: Engine, prompt: Any, options: dict[str, Any]) -> None:
        self._engine = engine
        self._ready: deque[Chunk] = deque()
        self.request: Request = engine.submit(prompt, owner=self, **options)

    def _advance(self) -> bool:
        """Takes steps until there is something to show; whether there is."""
        request = self.request
        while True:
            is_done = request.done  # before what it has shown: nothing comes after that
            self._ready.extend(request.chunks())
            if self._ready:
                return True
            if is_done:
                if request.error is not None:
                    raise request.error
                return False
            self._engine.drive(request)

    def __iter__(self) -> TokenStream:
        return self

    def __next__(self) -> Chunk:
        if not self._ready and not self._advance():
            self.close()
            raise StopIteration
        return self._ready.popleft()

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> Chunk:
        if not self._ready and not await asyncio.to_thread(self._advance):
            self.close()
            raise StopAsyncIteration
        return self._ready.popleft()

    def result(self) -> Generation:
        """The whole answer; goes on to its end."""
        return self.request.result()

    def close(self) -> None:
        """Ends the request, if it is not done, and frees all that it holds."""
        self.request.cancel()

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def aclose(self) -> None:
        """As :meth:`close`."""
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "request"):
            with suppress(StateError):  # collected within a step: the engine lets go of it after that
                self.close()
