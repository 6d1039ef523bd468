"""From tokens to text, one token at a time: whole characters, and stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["TextStream", "decode"]

_UNFINISHED = "\ufffd"


def decode(tokenizer: Any, tokens: list[int]) -> str:
    """The text of tokens as the tokenizer has it: special tokens left out, spaces as they are."""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


class TextStream:
    """Decodes a growing list of tokens, and looks for stop strings.

    Byte-level tokenizers spread one character over several tokens: text that ends in the middle of a
    character is held back. Text that may turn out to be the beginning of a stop string is held back too.
    The cost of a token does not depend on how many came before it.

    Attributes:
        text: all text decoded so far; cut before the stop string once ``stopped``.
        stopped: whether a stop string was met.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._window = 0  # first token of the context that the next decoding starts from
        self._done = 0  # tokens whose text is in self.text
        self._shown = 0  # characters that were handed out
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> bool:
        """Takes one token. Returns whether a stop string is complete with it."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._window : self._done])
        after = self._decode(self._tokens[self._window :])
        if len(after) <= len(before) or after.endswith(_UNFINISHED):
            return False
        self._append(after[len(before) :])
        self._window, self._done = self._done, len(self._tokens)
        return self.stopped

    def finish(self) -> None:
        """Says that no token follows: what was held back is text as it is."""
        if self.stopped or self._done == len(self._tokens):
            return
        before = self._decode(self._tokens[self._window : self._done])
        self._append(self._decode(self._tokens[self._window :])[len(before) :])
        self._done = len(self._tokens)

    def take(self, *, everything: bool = False) -> str:
        """The text that became certain since the last call; with ``everything``, what was held back too."""
        end = len(self.text)
        if not (everything or self.stopped):
            end -= self._possible_stop()
        fresh = self.text[self._shown : end]
        self._shown = max(self._shown, end)
        return fresh

    def _append(self, fresh: str) -> None:
        longest = max(map(len, self._stop), default=0)
        begin = max(0, len(self.text) - longest + 1)
        self.text += fresh
        found = [at for stop in self._stop if (at := self.text.find(stop, begin)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.stopped = True

    def _possible_stop(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        for length in range(max(map(len, self._stop), default=1) - 1, 0, -1):
            tail = self.text[-length:]
            if len(tail) == length and any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0

    def _decode(self, tokens: list[int]) -> str:
        return decode(self._tokenizer, tokens) if tokens else ""
