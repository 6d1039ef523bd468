"""API keys: whoever has none is answered with 401."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from hornbeam.serve.refusal import Refusal

__all__ = ["Keys"]

#: What load balancers look at.
OPEN_PATHS = frozenset({"/health"})


class Keys:
    """Lets requests with one of the keys pass: ``Authorization: Bearer KEY``.

    Args:
        app: what they pass to.
        keys: at least one.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and not self._is_known(scope):
            refusal = Refusal(
                401,
                "there is no valid API key, expected one as Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
            await refusal.response(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        # All of them, so that the time tells nothing.
        matches = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        return scheme.lower() == b"bearer" and any(matches)
