"""The bodies of answers, as OpenAI's clients read them."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hornbeam.results import Generation, TokenLogprob
from hornbeam.serve.fields import Chat, Completion

if TYPE_CHECKING:
    from hornbeam.serve.driver import Update
    from hornbeam.serve.reading import Asked
    from hornbeam.serve.tokens import TokenNames

__all__ = ["Answer", "ChatAnswer", "CompletionAnswer"]

#: What OpenAI calls the ends of texts.
FINISH = {"eos": "stop", "stop": "stop", "length": "length", "context": "length"}
#: In place of minus infinity, for which JSON has no number.
LEAST = -9999.0


class Entry(NamedTuple):
    """What is told of one token. The first of a prompt has no log-probability: nothing is before it."""

    token_id: int
    logprob: float | None
    top: list[tuple[int, float]]


class Answer(ABC):
    """The answer to one request: whole, or in chunks.

    Args:
        model: its name.
        asked: what the request asks for.
        names: of tokens.
    """

    prefix: str
    whole_object: str
    chunk_object: str

    def __init__(self, model: str, asked: Asked, names: TokenNames) -> None:
        self.asked = asked
        self.names = names
        self._head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    @abstractmethod
    def choice(self, index: int, generation: Generation) -> dict[str, Any]:
        """One whole sequence."""

    @abstractmethod
    def delta(self, update: Update) -> list[dict[str, Any]]:
        """What is new of one sequence, as choices of one chunk each."""

    def begin(self, index: int) -> dict[str, Any] | None:
        """The first choice of a sequence's stream, before anything of it is known."""
        return None

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choices = [self.choice(index, generation) for index, generation in enumerate(generations)]
        return {
            **self._head,
            "object": self.whole_object,
            "choices": choices,
            "usage": self.usage(generations),
        }

    def chunk(self, choices: Sequence[dict[str, Any]], with_usage: bool) -> dict[str, Any]:
        """A chunk of a stream. Where usage comes at its end, it is null before."""
        found = {**self._head, "object": self.chunk_object, "choices": list(choices)}
        return {**found, "usage": None} if with_usage else found

    def last_chunk(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The chunk that tells the usage."""
        return {**self.chunk([], False), "usage": self.usage(generations)}

    def usage(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """Tokens: those of a prompt count once, however many sequences it has."""
        firsts = generations[:: self.asked.n]
        prompt = sum(generation.stats.prompt_tokens for generation in firsts)
        emitted = sum(generation.stats.emitted for generation in generations)
        cached = sum(generation.stats.reused_tokens for generation in firsts)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": emitted,
            "total_tokens": prompt + emitted,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def shown(self, entries: Sequence[TokenLogprob], generation: Generation | None) -> list[TokenLogprob]:
        """The entries whose tokens are part of the text: an end token is none."""
        is_ended = generation is not None and generation.finish_reason == "eos"
        return list(entries[:-1] if is_ended else entries)


class CompletionAnswer(Answer):
    """Of ``/v1/completions``."""

    prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def __init__(
        self, model: str, asked: Asked, names: TokenNames, fields: Completion, echo: list[str]
    ) -> None:
        super().__init__(model, asked, names)
        self._wants_logprobs = fields.logprobs is not None
        #: The text of each prompt, where it is to be told again.
        self._echo = echo
        self._offsets: dict[int, int] = {}

    def _echoed(self, index: int) -> str:
        return self._echo[index // self.asked.n] if self._echo else ""

    def choice(self, index: int, generation: Generation) -> dict[str, Any]:
        """One whole sequence."""
        entries: list[Entry] = []
        if self._wants_logprobs:
            entries += self._of_prompt(index, generation.prompt_logprobs)
            entries += _entries(self.shown(generation.logprobs or [], generation))
        return self._choice(
            index, self._echoed(index) + generation.text, entries, FINISH[generation.finish_reason]
        )

    def delta(self, update: Update) -> list[dict[str, Any]]:
        """What is new of one sequence."""
        generation, is_first = update.generation, update.sequence not in self._offsets
        text = (self._echoed(update.sequence) if is_first else "") + update.text
        entries = _entries(self.shown(update.logprobs, generation))
        if is_first:
            entries = [*self._of_prompt(update.sequence, update.prompt_logprobs), *entries]
        finish = None if generation is None else FINISH[generation.finish_reason]
        return [self._choice(update.sequence, text, entries, finish)]

    def _of_prompt(self, index: int, found: Sequence[TokenLogprob | None] | None) -> list[Entry]:
        """The entries of a prompt, where it is told again with them."""
        if not found:
            return []
        known = [entry for entry in found if entry is not None]
        return [Entry(self.asked.prompts[index][0], None, []), *_entries(known)]

    def _choice(self, index: int, text: str, entries: Sequence[Entry], finish: str | None) -> dict[str, Any]:
        logprobs = self._logprobs(index, entries) if self._wants_logprobs else None
        self._offsets.setdefault(index, 0)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, index: int, entries: Sequence[Entry]) -> dict[str, Any]:
        """Four lists of one item a token."""
        tokens, values, offsets = list[str](), list[float | None](), list[int]()
        tops: list[dict[str, float] | None] = []
        offset = self._offsets.get(index, 0)
        for entry in entries:
            name = self.names.text_of(entry.token_id)
            top = {self.names.text_of(token): value for token, value in entry.top}
            tokens.append(name)
            values.append(entry.logprob)
            tops.append(None if entry.logprob is None else {**top, name: entry.logprob})
            offsets.append(offset)
            offset += len(self.names.bytes_of(entry.token_id).decode(errors="replace"))
        self._offsets[index] = offset
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


class ChatAnswer(Answer):
    """Of ``/v1/chat/completions``."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, model: str, asked: Asked, names: TokenNames, fields: Chat) -> None:
        super().__init__(model, asked, names)
        self._wants_logprobs = bool(fields.logprobs)

    def choice(self, index: int, generation: Generation) -> dict[str, Any]:
        """One whole sequence."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": generation.text, "refusal": None},
            "logprobs": self._logprobs(self.shown(generation.logprobs or [], generation)),
            "finish_reason": FINISH[generation.finish_reason],
        }

    def begin(self, index: int) -> dict[str, Any]:
        """Says who speaks."""
        return self._delta(index, {"role": "assistant", "content": ""}, None, None)

    def delta(self, update: Update) -> list[dict[str, Any]]:
        """What is new of one sequence, and after it its end."""
        found, generation = [], update.generation
        entries = self.shown(update.logprobs, generation)
        if update.text or entries:
            found.append(
                self._delta(update.sequence, {"content": update.text}, self._logprobs(entries), None)
            )
        if generation is not None:
            found.append(self._delta(update.sequence, {}, None, FINISH[generation.finish_reason]))
        return found

    def _delta(
        self, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, finish: str | None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, entries: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._wants_logprobs:
            return None
        content = [
            {
                **self._token(entry.token_id, entry.logprob),
                "top_logprobs": [self._token(token, value) for token, value in entry.top],
            }
            for entry in entries
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        data = self.names.bytes_of(token)
        return {"token": self.names.text_of(token), "logprob": max(logprob, LEAST), "bytes": list(data)}


def _entries(found: Sequence[TokenLogprob]) -> list[Entry]:
    return [
        Entry(
            entry.token_id,
            max(entry.logprob, LEAST),
            [(token, max(value, LEAST)) for token, value in entry.top],
        )
        for entry in found
    ]
