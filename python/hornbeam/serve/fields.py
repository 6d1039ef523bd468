"""What requests may hold. A field that is not here is refused by its name, and so is a value out of range.

``null`` is the same as leaving a field out. Types are taken at their word: ``"1"`` is no number, and ``1`` is
no truth value.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Chat", "Completion", "Fields", "Generated", "Message", "ResponseFormat", "Scoring"]

Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1)]


class Fields(BaseModel):
    """What all have in common: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Fields):
    """Of a stream."""

    include_usage: bool | None = None


class TextPart(Fields):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Prediction(Fields):
    """What the answer is expected to be: drafts are drawn from it, and the answer is the same."""

    type: Literal["content"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]

    @property
    def text(self) -> str:
        """All of it."""
        return text_of(self.content)


class PlainText(Fields):
    """Any text."""

    type: Literal["text"]


class JsonObject(Fields):
    """A JSON object."""

    type: Literal["json_object"]


class JsonSchema(Fields):
    """A schema by a name. It is always kept to, ``strict`` or not."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    definition: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonOfSchema(Fields):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class OfRegex(Fields):
    """A text that matches a regular expression as a whole."""

    type: Literal["regex"]
    regex: Annotated[str, Field(min_length=1)]


class OfGrammar(Fields):
    """A text of a grammar in llguidance's variant of Lark."""

    type: Literal["grammar"]
    grammar: Annotated[str, Field(min_length=1)]


ResponseFormat = Annotated[
    PlainText | JsonObject | JsonOfSchema | OfRegex | OfGrammar, Field(discriminator="type")
]


class Generated(Fields):
    """The fields that completions and chats share."""

    model: str
    n: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=1, lt=1 << 31)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=10)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int | None, Field(ge=0, lt=1 << 63)] = None
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    prediction: Prediction | None = None


class Completion(Generated):
    """``POST /v1/completions``."""

    prompt: str | Texts | Tokens | Annotated[list[Tokens], Field(min_length=1)]
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    echo: bool | None = None


class Message(Fields):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]

    @property
    def as_template(self) -> dict[str, str]:
        """As chat templates have it: ``developer`` is the newer name of ``system``."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": text_of(self.content)}


class Chat(Generated):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None


class Scoring(Fields):
    """``POST /v1/score``: how likely each of some tokens is after a query and each of its items."""

    query: str | Tokens
    items: str | Texts | Annotated[list[Tokens], Field(min_length=1)]
    label_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1024)]
    apply_softmax: bool | None = None
    item_first: bool | None = None
    model: str | None = None


def text_of(content: str | list[TextPart]) -> str:
    """The text of a content, in one or in several parts."""
    return content if isinstance(content, str) else "".join(part.text for part in content)
