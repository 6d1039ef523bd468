"""A stream of server-sent events that ends as soon as its client has gone."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

__all__ = ["EventStream", "until_gone"]

DONE = b"data: [DONE]\n\n"


async def until_gone(receive: Receive) -> None:
    """Returns when the client has closed its connection. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends events as they come.

    Args:
        events: gives their data; it is closed when the client has gone, or the time is over.
        deadline: in seconds of ``anyio.current_time()``, after which an event says that it was too late.
        too_late: the data of that event.
        at_end: called once at the end, whatever the end is.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[dict[str, Any], None],
        *,
        deadline: float,
        too_late: bytes,
        at_end: Callable[[], None],
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._deadline = deadline
        self._too_late = too_late
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        try:
            async with anyio.create_task_group() as group:

                async def watch() -> None:
                    await until_gone(receive)
                    group.cancel_scope.cancel()

                group.start_soon(watch)
                with anyio.CancelScope(deadline=self._deadline) as limit:
                    await self._send(send)
                if limit.cancelled_caught:
                    with anyio.move_on_after(1):  # whoever does not read gets no more time
                        await self._put(send, b"data: " + self._too_late + b"\n\n")
                        await send({"type": "http.response.body", "body": b"", "more_body": False})
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._events.aclose()
            self._at_end()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for event in self._events:
            # In ASCII: some clients take other characters than a line feed for the end of a line.
            await self._put(send, b"data: " + json.dumps(event).encode() + b"\n\n")
        await send({"type": "http.response.body", "body": DONE, "more_body": False})

    async def _put(self, send: Callable[[Any], Awaitable[None]], data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})
