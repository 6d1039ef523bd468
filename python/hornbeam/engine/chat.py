"""The turns of a chat that goes on: what a model's template puts between an answer and the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hornbeam.errors import ArgumentError
from hornbeam.prompt import chat_text, is_answer_begun

if TYPE_CHECKING:
    from hornbeam.engine.request import Request

__all__ = ["answered", "turns"]


def answered(messages: Sequence[Mapping[str, Any]], answer: str) -> list[Any]:
    """A chat and the model's answer to it, which goes on with a last message of its own."""
    if is_answer_begun(messages):
        *before, last = messages
        return [*before, {**last, "content": f"{last['content']}{answer}"}]
    return [*messages, {"role": "assistant", "content": answer}]


def turns(tokenizer: Any, request: Request, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The token ids that follow a request's answer where a chat goes on with ``messages``.

    They are what the template says after the answer, so that the cache of everything before stays of use.

    Raises:
        ArgumentError: there is no tokenizer, the request was not submitted as messages, or the template
            writes earlier turns otherwise once others follow.
    """
    if tokenizer is None:
        raise ArgumentError("the chat goes on with messages, but this LM has no tokenizer; give token ids")
    if request.messages is None:
        raise ArgumentError("the chat goes on with messages, expected a request that began with messages")
    answer = request.generation().text
    before = chat_text(tokenizer, request.messages)
    whole = chat_text(tokenizer, [*answered(request.messages, answer), *messages])
    if not whole.startswith(before + answer):
        raise ArgumentError(
            "the chat template writes earlier turns otherwise once others follow; give token ids, or a new "
            "request with all messages"
        )
    following = whole[len(before) + len(answer) :]
    ids: list[int] = tokenizer(following, add_special_tokens=False)["input_ids"]
    # The answer may hold the end of its turn already.
    if request.output and ids and request.output[-1] == ids[0]:
        del ids[0]
    return ids
