"""What the OpenAPI description says of requests and answers: the fields of :mod:`hornbeam.serve.fields`, and
the shapes of the bodies that :mod:`hornbeam.serve.answers` writes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema

from hornbeam.serve.fields import Chat, Completion, Scoring

__all__ = ["BODIES", "components", "request_body", "responses"]

_REF = "#/components/schemas/{model}"


class Body(BaseModel):
    """An answer holds nothing else."""

    model_config = ConfigDict(extra="forbid")


class PromptTokens(Body):
    """Of a prompt."""

    cached_tokens: int


class Usage(Body):
    """What an answer took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class TextLogprobs(Body):
    """One item a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Body):
    """One sequence."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class CompletionBody(Body):
    """The answer of ``/v1/completions``."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class TopToken(Body):
    """A likely token."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(TopToken):
    """A token of the answer."""

    top_logprobs: list[TopToken]


class ChatLogprobs(Body):
    """Of the tokens of an answer."""

    content: list[ChatToken]
    refusal: None


class ChatMessage(Body):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Body):
    """One sequence."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatBody(Body):
    """The answer of ``/v1/chat/completions``."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ScoreUsage(Body):
    """What scores took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ScoreBody(Body):
    """The answer of ``/v1/score``: of each item the weight of each label."""

    object: Literal["scoring"]
    model: str
    scores: list[list[float]]
    usage: ScoreUsage


class ModelBody(Body):
    """The model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int


class ModelsBody(Body):
    """All models: one."""

    object: Literal["list"]
    data: list[ModelBody]


class HealthBody(Body):
    """Whether requests are answered."""

    status: Literal["ok"]


class ErrorFields(Body):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Body):
    """The body of every status above 399."""

    error: ErrorFields


BODIES: tuple[type[BaseModel], ...] = (
    Chat,
    Completion,
    Scoring,
    ChatBody,
    CompletionBody,
    ErrorBody,
    HealthBody,
    ModelBody,
    ModelsBody,
    ScoreBody,
)
#: Why requests with a body are refused.
REFUSED = {
    400: "A field is not as it should be; the message and `param` name it.",
    404: "The model is not the one that is served.",
    408: "The answer took too long.",
    413: "The body is too large.",
    415: "The body is not declared to be JSON.",
    429: "Too many requests are under way; Retry-After says when to try again.",
}


def components(model: str) -> dict[str, Any]:
    """The schemas of all bodies, for a server of this model."""
    found = models_json_schema([(body, "validation") for body in BODIES], ref_template=_REF, by_alias=True)[
        1
    ]["$defs"]
    for name in ("Chat", "Completion"):
        found[name]["properties"]["model"]["enum"] = [model]
    for option in found["Scoring"]["properties"]["model"]["anyOf"]:
        if option["type"] == "string":
            option["enum"] = [model]
    return dict(found)


def request_body(fields: type[BaseModel]) -> dict[str, Any]:
    """The part of a route's description that its fields are."""
    schema = {"$ref": _REF.format(model=fields.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def responses(
    body: type[BaseModel], *, refused: bool = False, streams: bool = False, keys: bool = False
) -> dict[int | str, dict[str, Any]]:
    """What a route answers with.

    Args:
        body: of status 200.
        refused: whether it takes a body that may be refused.
        streams: whether it may answer with a stream of events.
        keys: whether it needs an API key.
    """
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": _REF.format(model=body.__name__)}}}
    if streams:
        event = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
        content["text/event-stream"] = {"itemSchema": event}
    found: dict[int | str, dict[str, Any]] = {200: {"description": "The answer.", "content": content}}
    error = {"application/json": {"schema": {"$ref": _REF.format(model="ErrorBody")}}}
    reasons = {**(REFUSED if refused else {}), **({401: "There is no valid API key."} if keys else {})}
    for status, reason in sorted(reasons.items()):
        found[status] = {"description": reason, "content": error}
    return found
