"""How the body of a request is read: no longer than allowed, and as its fields say."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError
from starlette.requests import Request

from hornbeam.serve.fields import Fields
from hornbeam.serve.refusal import Refusal, of_validation

__all__ = ["ClientGone", "read_body"]

_F = TypeVar("_F", bound=Fields)


class ClientGone(Exception):
    """The client has closed its connection: nobody reads an answer."""


async def read_body(request: Request, model: type[_F], most: int) -> tuple[_F, int]:
    """The fields of a request, and the bytes of its body.

    Args:
        request: its body was not read yet.
        model: the fields that there are.
        most: bytes of the body.

    Raises:
        Refusal: it is too large, no JSON, or has a field that is not as it should be.
        ClientGone: it ended before its time.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also what keeps pages of other origins out: a browser asks before it sends JSON, and is refused.
        raise Refusal(415, f"Content-Type is {kind!r}, expected application/json", "Content-Type")
    too_large = Refusal(413, f"the body is too large, expected at most {most} bytes", "body")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_large
    data = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        data += message.get("body", b"")
        if len(data) > most:
            raise too_large
        if not message.get("more_body", False):
            break
    try:
        return model.model_validate_json(bytes(data)), len(data)
    except ValidationError as error:
        raise of_validation(error, model) from error
