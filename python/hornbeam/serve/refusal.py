"""How a request is refused: a status, and the error object that OpenAI's clients know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from starlette.responses import Response

__all__ = ["Refusal", "of_validation"]

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: what is wrong, with the value that was given and what was expected.
        param: the field that is at fault, as the request has it.
        code: a word for programs.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers

    @property
    def body(self) -> bytes:
        """As JSON."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    @property
    def response(self) -> Response:
        """As a response."""
        headers = None if self.headers is None else dict(self.headers)
        return Response(self.body, self.status, headers, media_type="application/json")


def of_validation(error: ValidationError, model: type[BaseModel]) -> Refusal:
    """The refusal of a body that is not as its fields say; it names the first field at fault.

    Args:
        error: of pydantic.
        model: the fields.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    known = _names(model)
    # Between the names of fields stand those of the alternatives that pydantic has tried.
    path = [str(part) for part in first["loc"] if isinstance(part, int) or part in known]
    if first["type"] == "extra_forbidden":
        path = [*path, str(first["loc"][-1])] if str(first["loc"][-1]) not in path[-1:] else path
        return Refusal(400, f"{'.'.join(path)} is not a field that this server honours", ".".join(path))
    if first["type"] == "json_invalid":
        return Refusal(400, f"the body is not JSON: {first['msg']}")
    name = ".".join(path) or "the body"
    given = "" if first["type"] == "missing" else f" is {_shown(first['input'])}:"
    return Refusal(400, f"{name}{given} {first['msg'][:1].lower()}{first['msg'][1:]}", ".".join(path) or None)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _names(model: type[BaseModel]) -> set[str]:
    """The names of all fields, those of the models in it included."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        found.add(field.alias or name)
        waiting = [field.annotation]
        while waiting:
            kind = waiting.pop()
            waiting.extend(get_args(kind))
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= _names(kind)
    return found
