"""From the fields of a request to what the engine is asked for: prompts, and the keywords of a call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hornbeam.errors import ArgumentError
from hornbeam.prompt import prompts_of
from hornbeam.serve.fields import (
    Chat,
    Completion,
    Generated,
    JsonObject,
    JsonOfSchema,
    OfGrammar,
    OfRegex,
    Scoring,
)
from hornbeam.serve.refusal import Refusal

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.options import Options
    from hornbeam.serve.limits import Limits

__all__ = ["Asked", "ScoreAsked", "keywords_of", "read_generated", "read_scoring"]

#: As OpenAI has it.
COMPLETION_TOKENS = 16


@dataclass(frozen=True)
class Asked:
    """What a request asks for, checked.

    Attributes:
        prompts: token ids, each ``n`` times.
        n: sequences of each prompt.
        options: of all of them.
    """

    prompts: list[list[int]]
    n: int
    options: Options


@dataclass(frozen=True)
class ScoreAsked:
    """What a scoring request asks for: the tokens that are weighed after each text."""

    texts: list[list[int]]
    labels: list[int]


@contextmanager
def blamed_on(param: str) -> Iterator[None]:
    """What is refused within is refused for this field."""
    try:
        yield
    except ArgumentError as error:
        said = str(error) if str(error).startswith(param) else f"{param}: {error}"
        raise Refusal(400, said, param) from error


def read_generated(engine: Engine, fields: Completion | Chat, limits: Limits, *, draft: Any) -> Asked:
    """What a completion or a chat asks for; its guesses come from ``draft``.

    Raises:
        Refusal: a field cannot be honoured.
    """
    name = "prompt" if isinstance(fields, Completion) else "messages"
    n = fields.n or 1
    with blamed_on(name):
        given = fields.prompt if isinstance(fields, Completion) else messages_of(fields)
        prompts, _ = prompts_of(engine, given)
    if len(prompts) * n > limits.sequences:
        raise Refusal(
            400, f"n is {n} for {len(prompts)} prompts, expected {limits.sequences} sequences at most", "n"
        )
    room = engine.max_positions - max(map(len, prompts)) + 1
    keywords = keywords_of(engine, fields)
    asked = keywords["max_new_tokens"]
    tokens_name = next(
        (field for field in ("max_completion_tokens", "max_tokens") if getattr(fields, field, None)), name
    )
    most = engine.max_positions if limits.new_tokens is None else limits.new_tokens
    if asked is None:
        keywords["max_new_tokens"] = min(room, most)
    elif asked > most:
        raise Refusal(400, f"{tokens_name} is {asked}, expected at most {most}", tokens_name)
    elif asked > room:
        raise Refusal(
            400,
            f"{tokens_name} is {asked}, expected at most {room}: the prompt has "
            f"{max(map(len, prompts))} tokens, and the model's context {engine.max_positions}",
            tokens_name,
            "context_length_exceeded",
        )
    try:
        options = engine.options_of(draft=draft, **keywords)
    except ArgumentError as error:
        raise Refusal(400, str(error), _named(str(error))) from error
    return Asked([prompt for prompt in prompts for _ in range(n)], n, options)


def messages_of(fields: Chat) -> list[dict[str, str]]:
    """The messages as a chat template has them."""
    return [message.as_template for message in fields.messages]


def keywords_of(engine: Engine, fields: Completion | Chat) -> dict[str, Any]:
    """The keywords of :meth:`hornbeam.LM.generate` that a request asks for; ``n`` aside, and
    ``max_new_tokens`` is None where it names none.

    Raises:
        Refusal: a field cannot be honoured.
    """
    if fields.stream_options is not None and not fields.stream:
        raise Refusal(400, "stream_options goes with stream, which is not true", "stream_options")
    keywords: dict[str, Any] = {
        "temperature": 1.0 if fields.temperature is None else fields.temperature,
        "top_p": fields.top_p,
        "top_k": fields.top_k,
        "min_p": fields.min_p,
        "repetition_penalty": fields.repetition_penalty,
        "frequency_penalty": fields.frequency_penalty,
        "presence_penalty": fields.presence_penalty,
        "logit_bias": _bias(engine, fields.logit_bias),
        "seed": fields.seed,
        "stop": fields.stop or None,
        "logits_processor": _grammar(engine, fields),
        "prediction": None if fields.prediction is None else fields.prediction.text,
    }
    if isinstance(fields, Completion):
        keywords["max_new_tokens"] = COMPLETION_TOKENS if fields.max_tokens is None else fields.max_tokens
        keywords["logprobs"] = fields.logprobs
        # Without log-probabilities the prompt is written out and needs no look at the model's.
        keywords["echo"] = bool(fields.echo) and fields.logprobs is not None
        return keywords
    if fields.max_tokens is not None and fields.max_completion_tokens is not None:
        raise Refusal(400, "max_tokens is given beside max_completion_tokens, expected one", "max_tokens")
    if fields.top_logprobs is not None and not fields.logprobs:
        raise Refusal(400, "top_logprobs goes with logprobs, which is not true", "top_logprobs")
    keywords["max_new_tokens"] = fields.max_completion_tokens or fields.max_tokens
    keywords["logprobs"] = (fields.top_logprobs or 0) if fields.logprobs else None
    return keywords


def _bias(engine: Engine, given: dict[str, float] | None) -> dict[int, float] | None:
    if not given:
        return None
    size = engine.runner.shape.vocab_size
    found: dict[int, float] = {}
    for name, value in given.items():
        token = int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else size
        if token >= size:
            raise Refusal(
                400, f"logit_bias holds {name[:40]!r}, expected a token id of 0 to {size - 1}", "logit_bias"
            )
        found[token] = value
    return found


def _grammar(engine: Engine, fields: Generated) -> Any:
    """What the text has to match, compiled."""
    wanted = fields.response_format
    from hornbeam.integrations import llguidance

    with blamed_on("response_format"):
        if isinstance(wanted, JsonObject):
            return llguidance.json_object(engine)
        if isinstance(wanted, JsonOfSchema):
            schema = wanted.json_schema.definition
            return llguidance.json_schema(engine, {} if schema is None else schema)
        if isinstance(wanted, OfRegex):
            return llguidance.regex(engine, wanted.regex)
        if isinstance(wanted, OfGrammar):
            return llguidance.lark(engine, wanted.grammar)
    return None


def _named(message: str) -> str | None:
    """The field that a message of the engine begins with."""
    names = {"max_new_tokens": "max_tokens"}
    first = message.split(" ", 1)[0].rstrip(":")
    known = {*Completion.model_fields, *Chat.model_fields}
    return names.get(first, first if first in known else None)


def read_scoring(engine: Engine, fields: Scoring, limits: Limits) -> ScoreAsked:
    """What a scoring request asks for. A query and an item that are texts are read as one text.

    Raises:
        Refusal: a field cannot be honoured.
    """
    items: Sequence[Any] = [fields.items] if isinstance(fields.items, str) else fields.items
    if len(items) > limits.sequences:
        raise Refusal(400, f"items has {len(items)}, expected {limits.sequences} at most", "items")
    if any(isinstance(item, str) != isinstance(fields.query, str) for item in items):
        raise Refusal(
            400, "items are not given as the query is: both as texts, or both as token ids", "items"
        )
    size = engine.runner.shape.vocab_size
    for token in fields.label_token_ids:
        if token >= size:
            raise Refusal(400, f"label_token_ids holds {token}, expected 0 to {size - 1}", "label_token_ids")
    query: Any = fields.query
    texts = [item + query if fields.item_first else query + item for item in items]
    with blamed_on("items"):
        prompts, _ = prompts_of(engine, texts)
    return ScoreAsked(prompts, fields.label_token_ids)
