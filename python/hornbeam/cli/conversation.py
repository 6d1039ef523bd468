"""A chat in the terminal: its messages, its settings, and the request that keeps its prefix."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbeam.cli import choices
from hornbeam.errors import ArgumentError
from hornbeam.text_file import read_text

if TYPE_CHECKING:
    from hornbeam.engine.request import Request
    from hornbeam.lm import LM
    from hornbeam.results import Chunk, Generation

__all__ = ["DRAFTS", "SETTINGS", "Conversation"]

#: What may be set, and how its value is read.
SETTINGS: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "frequency_penalty": float,
    "presence_penalty": float,
    "max_new_tokens": int,
    "seed": int,
    "stop": str,
    "system": str,
}
DRAFTS = ("auto", "suffix", "ngram", "recycling", "head", "none")


@dataclass
class Conversation:
    """What was said so far, and how the next answer is made.

    The next turn goes on from the pages of the last answer; a turn with other settings begins anew, and finds
    the pages of all that was said in the cache.

    Attributes:
        lm: the model.
        settings: by the names of :data:`SETTINGS`.
        draft: by name.
        head: a folder of ``hornbeam train-head`` whose feature head drafts, under ``auto`` and ``head``.
        messages: without the system message.
    """

    lm: LM
    settings: dict[str, Any] = field(default_factory=dict)
    draft: str = "auto"
    head: Path | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    _request: Request | None = None

    def say(self, text: str, show: Callable[[Chunk], None]) -> Generation:
        """The model's answer to a message. An interrupt ends it with what there is.

        Args:
            text: of the message.
            show: called with what became certain.

        Raises:
            ArgumentError: the chat does not fit the model's context any more.
        """
        message = {"role": "user", "content": text}
        request = self._next(message)
        try:
            while not request.done:
                self.lm.engine.drive(request)
                for chunk in request.chunks():
                    show(chunk)
        except KeyboardInterrupt:
            request.cancel()
        if request.error is not None:
            self.forget()
            raise request.error
        answer = request.generation()
        self.messages += [message, {"role": "assistant", "content": answer.text}]
        if request.is_closed:
            self.forget()
        else:
            self._request = request
        return answer

    def _next(self, message: dict[str, str]) -> Request:
        """The request that answers a message."""
        request, self._request = self._request, None
        if request is not None:
            try:
                return request.extend([message])
            except ArgumentError:
                request.release()  # the template writes earlier turns otherwise; or the context is full
        system = self.settings.get("system")
        first = [{"role": "system", "content": system}] if system else []
        return self.lm.engine.submit([*first, *self.messages, message], **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        given = {name: value for name, value in self.settings.items() if name != "system"}
        head = self.head if self.draft in ("auto", "head") else None
        return {"max_new_tokens": 1024, **given, "draft": choices.draft(self.draft, None, head)}

    def set(self, name: str, value: str) -> None:
        """Changes a setting; an empty value is that of the model again.

        Raises:
            ArgumentError: there is no such setting, or the value lies out of its range.
        """
        name = name.replace("-", "_")
        if name not in SETTINGS:
            raise ArgumentError(f"{name!r} is no setting, expected one of: {', '.join(SETTINGS)}")
        before = dict(self.settings)
        if value:
            try:
                self.settings[name] = SETTINGS[name](value)
            except ValueError:
                raise ArgumentError(f"{name} is {value!r}, expected a number") from None
        else:
            self.settings.pop(name, None)
        try:
            self.lm.engine.options_of(**self._options)
        except ArgumentError:
            self.settings = before
            raise
        self.forget()

    def draw_from(self, draft: str) -> None:
        """Chooses what drafts. The answers are the same.

        Raises:
            ArgumentError: there is no such draft.
        """
        if draft not in DRAFTS:
            raise ArgumentError(f"draft is {draft!r}, expected one of: {', '.join(DRAFTS)}")
        self.draft = draft
        self.forget()

    def take_back(self) -> str:
        """Forgets the last turn, and gives what was said in it. The next answer is drawn with another seed.

        Raises:
            ArgumentError: nothing was said yet.
        """
        if not self.messages:
            raise ArgumentError("nothing was said yet")
        text = self.messages[-2]["content"]
        del self.messages[-2:]
        self.settings["seed"] = self.settings.get("seed", 0) + 1
        self.forget()
        return text

    def clear(self) -> None:
        """Forgets what was said; settings stay."""
        self.messages.clear()
        self.forget()

    def save(self, path: Path) -> None:
        """Writes messages and settings as JSON.

        Raises:
            OSError: the file cannot be written.
        """
        kept = {"messages": self.messages, "settings": self.settings, "draft": self.draft}
        path.write_text(json.dumps(kept, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    def load(self, path: Path) -> None:
        """Goes on with what :meth:`save` wrote.

        Raises:
            OSError: the file cannot be read.
            ArgumentError: it is no such file.
        """
        try:
            kept = json.loads(read_text(path))
            messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in kept["messages"]]
            settings, draft = dict(kept["settings"]), str(kept["draft"])
        except (ValueError, KeyError, TypeError) as error:
            raise ArgumentError(f"{path} is no chat that /save wrote: {error}") from error
        roles = [message["role"] for message in messages]
        if roles != ["user", "assistant"] * (len(messages) // 2):
            raise ArgumentError(f"{path} is no chat that /save wrote: its roles are {roles}")
        other = Conversation(self.lm)
        for name, value in settings.items():
            other.set(name, str(value))
        other.draw_from(draft)
        self.clear()
        self.messages, self.settings, self.draft = messages, other.settings, draft

    def forget(self) -> None:
        """Lets go of the last answer's branch; its pages stay cached."""
        if self._request is not None:
            self._request.release()
        self._request = None
