"""uvicorn around the application, with what a server of one model wants of it."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["is_loopback", "run"]


class _Server(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[str], None] | None) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self._ready is not None and self.started:
            [*_, last] = [socket for server in self.servers for socket in server.sockets]
            host, port = last.getsockname()[:2]
            self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


def run(
    app: FastAPI,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], None] | None = None,
    access_log: bool = False,
) -> None:
    """Answers requests until it is told to stop by Ctrl-C or SIGTERM: then nothing new is accepted, and what
    is under way has the limit's ``drain_seconds`` to end.

    Args:
        app: of :func:`hornbeam.serve.create_app`.
        host: where it listens; other machines are answered only where this is not a loopback address.
        port: likewise; 0 for any that is free.
        ready: called with the address as soon as requests are answered.
        access_log: write a line for each request.
    """
    limits = app.state.service.limits
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        workers=1,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        server_header=False,
        access_log=access_log,
        log_level="info" if access_log else "warning",
        timeout_graceful_shutdown=math.ceil(limits.drain_seconds),
    )
    _Server(config, ready).run()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
