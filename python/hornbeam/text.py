"""From tokens to text, one token at a time: whole characters, and stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["TextStream", "continuation", "pieces_of"]

_T = TypeVar("_T")

#: What decoders put for bytes that are no character: also for the beginning of one.
_UNFINISHED = "\ufffd"
#: Tokens that what comes next is decoded behind. A character has four bytes at most, so that of six
#: tokens with text the last is read from the beginning of its first character on.
_CONTEXT = 6
#: The context is cut to so few tokens again once it has this many.
_MOST_CONTEXT = 16
#: Tokens that a piece is decoded behind.
_PIECE_CONTEXT = 8


class Vocabulary:
    """What a stream has to know of a tokenizer's tokens; one for each tokenizer, see :func:`_known`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.num_tokens = _num_tokens(tokenizer)

    @cached_property
    def name_of(self) -> dict[int, str]:
        """The tokens that text leaves out, and what they are called in the vocabulary."""
        tokenizer = self._tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        named = {token: str(name) for token, name in added.items() if name.special}
        ids = getattr(tokenizer, "all_special_ids", ())
        named |= dict(zip(ids, getattr(tokenizer, "all_special_tokens", ()), strict=True))
        return {token: name for token, name in named.items() if not decode(tokenizer, [token])}

    @cached_property
    def byte_of(self) -> dict[int, int]:
        """The tokens ``<0x00>`` to ``<0xFF>`` of a tokenizer that falls back to bytes, and their bytes.

        Such a tokenizer decodes neighbouring byte tokens together: to characters if all of them are
        valid, else to one replacement character each. So a run of them is not certain before its end.
        """
        if not hasattr(self._tokenizer, "convert_tokens_to_ids"):
            return {}
        letter = self._tokenizer.convert_tokens_to_ids("<0x41>")
        if letter is None or letter == getattr(self._tokenizer, "unk_token_id", None):
            return {}
        if decode(self._tokenizer, [letter]) != "A":
            return {}
        names = [f"<0x{byte:02X}>" for byte in range(256)]
        ids = [self._tokenizer.convert_tokens_to_ids(name) for name in names]
        return {token: byte for byte, token in enumerate(ids) if token is not None}


_VOCABULARIES: WeakKeyDictionary[Any, Vocabulary] = WeakKeyDictionary()


def _num_tokens(tokenizer: Any) -> int:
    """Tokens, those that were added among them; 0 of what only encodes and decodes."""
    return len(tokenizer) if hasattr(tokenizer, "__len__") else 0


def _known(tokenizer: Any) -> Vocabulary:
    """The vocabulary as it is now: tokens may have been added since the last call."""
    known = _VOCABULARIES.get(tokenizer)
    if known is None or known.num_tokens != _num_tokens(tokenizer):
        known = _VOCABULARIES[tokenizer] = Vocabulary(tokenizer)
    return known


def decode(tokenizer: Any, tokens: list[int]) -> str:
    """The text of tokens as the tokenizer has it: special tokens left out, spaces as they are."""
    if not tokens:
        return ""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def continuation(tokenizer: Any, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """The text of tokens that follow a prompt: what the text of both has beyond that of the prompt.

    It is not the text of the tokens alone, of which SentencePiece-like tokenizers hide a leading space.
    """
    context, run = _context(_known(tokenizer), prompt)
    before = [*context, *run]
    text = decode(tokenizer, [*before, *tokens])
    return text[_num_shared(decode(tokenizer, before), text) :]


def pieces_of(tokenizer: Any, tokens: Sequence[int], behind: Sequence[int] = ()) -> list[str]:
    """The text that each token adds, special tokens under their names.

    Args:
        tokenizer: of transformers, or whatever decodes as one does.
        tokens: the tokens, in order.
        behind: what stands before them. Eight tokens before a token settle how it is written.

    Returns:
        One text a token. A character that several tokens spell comes with its last one, the others are empty.
    """
    text = [*behind[-_PIECE_CONTEXT:], *tokens]
    pieces, held = [], 0
    for end in range(1, len(text) + 1):
        begin = max(0, end - 1 - held - _PIECE_CONTEXT)
        before = tokenizer.decode(text[begin : end - 1 - held])
        after = tokenizer.decode(text[begin:end])
        if after.endswith(_UNFINISHED) and held < 4 and end < len(text):
            pieces.append("")
            held += 1
        else:
            pieces.append(after[len(before) :])
            held = 0
    return pieces[len(text) - len(tokens) :]


def twin(value: _T) -> _T:
    """A second object with the same attributes: :func:`copy.copy`, in a tenth of its time."""
    child: _T = object.__new__(type(value))
    child.__dict__.update(value.__dict__)
    return child


def _num_shared(before: str, text: str) -> int:
    """Characters at the beginning of a text that are those of the text before it grew."""
    if text.startswith(before):
        return len(before)
    return next((i for i, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), len(text))


def _context(vocabulary: Vocabulary, prompt: Sequence[int]) -> tuple[list[int], list[int]]:
    """The last tokens of a prompt that have text, and of those, apart, the byte tokens at its end."""
    context: list[int] = []
    run: list[int] = []
    for token in reversed(prompt):
        if token in vocabulary.name_of:
            continue
        if token in vocabulary.byte_of and not context:
            run.append(token)
        else:
            context.append(token)
        if len(context) == _CONTEXT:
            break
    return context[::-1], run[::-1]


class TextStream:
    """Decodes a growing list of tokens that follow a prompt, and looks for stop strings.

    What may still change is held back: the beginning of a character whose bytes are spread over several
    tokens, bytes of a tokenizer that decodes neighbouring bytes together, and what may turn out to be the
    beginning of a stop string. The cost of a token does not depend on how many came before it, nor on how
    long they are undecodable.

    A stop string is looked for in the text, and in the text with what it leaves out: special tokens under
    their names, and the space that a tokenizer hides at the beginning.

    Args:
        tokenizer: of transformers, or whatever decodes as one does.
        stop: strings that end the text; none is empty.
        prompt: the tokens before the first.

    Attributes:
        stopped: whether a stop string was met.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = _known(tokenizer)
        self._searches = [_Search(stop), _Search(stop)] if stop else []  # in the text; with what it hides
        #: What the next token is decoded behind, and how many characters of its text were told.
        self._context, self._run = _context(self._vocabulary, prompt)
        self._before: str | None = decode(tokenizer, [*self._context, *self._run])
        self._num_before = len(self._context) + len(self._run)
        self._told = 0
        #: The characters of the run of byte tokens, so that a stop string in it is met at once.
        self._characters = codecs.getincrementaldecoder("utf-8")() if self._searches else None
        self._run_text = ""
        self._decode_bytes(self._run)
        self._run_text = ""  # that of the prompt is not searched
        self._names: list[
            str
        ] = []  # of special tokens that wait for the end of the run, which they do not end
        self._parts: list[str] = []
        self._length = 0
        self._shown = 0  # characters that were handed out
        self.stopped = False

    def fork(self) -> TextStream:
        """A stream that stands where this one does and goes on by itself."""
        child = twin(self)
        child._context, child._run = list(self._context), list(self._run)
        child._names, child._parts = list(self._names), list(self._parts)
        child._searches = [search.fork() for search in self._searches]
        if self._characters is not None:
            child._characters = codecs.getincrementaldecoder("utf-8")()
            child._characters.setstate(self._characters.getstate())
        return child

    @property
    def text(self) -> str:
        """All text that is certain so far; it ends before the stop string once ``stopped``."""
        self._parts = ["".join(self._parts)]
        return self._parts[0]

    def push(self, token: int) -> bool:
        """Takes one token. Returns whether a stop string is complete with it."""
        if token in self._vocabulary.byte_of:
            self._run.append(token)
            if self._decode_bytes([token]) and any(s.would_find(self._run_text) for s in self._searches):
                self._read_run()
        elif token in self._vocabulary.name_of:
            if self._searches:
                self._names.append(self._vocabulary.name_of[token])
                if not self._run or self._searches[1].would_find(self._run_text + "".join(self._names)):
                    self._read_run()
        else:
            self._run.append(token)
            self._read_run()
        return self.stopped

    def finish(self) -> None:
        """Says that no token follows: what was held back is text as it is."""
        if not self.stopped:
            self._read_run(is_last=True)

    def take(self, *, everything: bool = False) -> str:
        """The text that became certain since the last call; with ``everything``, what was held back too."""
        end = self._length
        if not (everything or self.stopped):
            end = min([end, *(search.held for search in self._searches)])
        fresh = self.text[self._shown : end]
        self._shown = max(self._shown, end)
        return fresh

    def _decode_bytes(self, tokens: Iterable[int]) -> bool:
        """Adds byte tokens to the run's characters, if there are stop strings; whether it has more."""
        if self._characters is None:
            return False
        had = len(self._run_text)
        try:
            self._run_text += self._characters.decode(bytes(self._vocabulary.byte_of[t] for t in tokens))
        except UnicodeDecodeError:
            # No run with these bytes has characters; the next one begins anew.
            self._characters, self._run_text = None, ""
            return False
        return len(self._run_text) > had

    def _read_run(self, is_last: bool = False) -> None:
        """Decodes what was held back behind the context, and tells what of it is certain."""
        self._tell(is_last)
        for name in self._names:
            self._hide(name)
        self._names = []

    def _tell(self, is_last: bool) -> None:
        self._context += self._run
        self._run, self._run_text = [], ""
        if self._searches:
            self._characters = codecs.getincrementaldecoder("utf-8")()
        text = decode(self._tokenizer, self._context)
        certain = len(text) if is_last else _certain(text)
        if self._before is not None:
            # A character that the prompt begins and the first tokens end is theirs.
            self._told = _num_shared(self._before, text[:certain])
            if certain <= self._told:
                if len(self._context) > self._num_before + _MOST_CONTEXT and text == self._before:
                    del self._context[-_CONTEXT:]  # they have no text
                return
            self._hide_space()
            self._before = None
        if certain > self._told:
            self._append(text[self._told : certain])
            self._told = certain
        if len(self._context) > _MOST_CONTEXT:
            self._shorten()

    def _shorten(self) -> None:
        """Keeps the context's last tokens; if these have no text, all but them."""
        last = self._context[-_CONTEXT:]
        text = decode(self._tokenizer, last)
        if not text:
            last = self._context[:-_CONTEXT]
            text = decode(self._tokenizer, last)
        self._context, self._told = last, _certain(text)

    def _hide_space(self) -> None:
        """Lets a stop string begin with the space that is hidden in front of the first text of all."""
        if self._searches and not self._before:
            first = self._context[:_CONTEXT]
            text = decode(self._tokenizer, first)
            if text and decode(self._tokenizer, first * 2)[len(text) :] == " " + text:
                self._hide(" ")

    def _hide(self, name: str) -> None:
        """Adds to the text that is searched what is not shown."""
        self._end_at(self._searches[1].find(name, [self._length] * len(name)))

    def _append(self, fresh: str) -> None:
        positions = range(self._length, self._length + len(fresh))
        self._parts.append(fresh)
        self._length += len(fresh)
        ends = [search.find(fresh, positions) for search in self._searches]
        self._end_at(min((end for end in ends if end is not None), default=None))

    def _end_at(self, end: tuple[int, int] | None) -> None:
        if end is not None and not self.stopped:
            self._parts, self._length = [self.text[: end[1]]], end[1]
            self.stopped = True


def _certain(text: str) -> int:
    """Characters of a text that no further token changes."""
    return len(text) - text.endswith(_UNFINISHED)


class _Search:
    """Looks for stop strings in characters as they come, each with its position in the text."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._longest = max(map(len, stop))
        self._seen = ""  # the last characters, which may begin a stop string
        self._positions: list[int] = []

    def fork(self) -> _Search:
        """The same, which goes on by itself."""
        child = twin(self)
        child._positions = list(self._positions)
        return child

    def find(self, fresh: str, positions: Sequence[int]) -> tuple[int, int] | None:
        """The stop string that ends first with these characters, of several the longest: the place of its
        end among them, and the position that it begins at."""
        text = self._seen + fresh
        self._positions += positions
        known = len(self._seen)
        ends = [
            (at + len(stop) - known, self._positions[at])
            for stop in self._stop
            if (at := text.find(stop)) >= 0
        ]
        keep = min(self._longest - 1, len(text))
        self._seen = text[len(text) - keep :]
        self._positions = self._positions[len(text) - keep :]
        return min(ends, default=None)

    def would_find(self, fresh: str) -> bool:
        """Whether a stop string is complete with these characters."""
        text = self._seen + fresh
        return any(stop in text for stop in self._stop)

    @property
    def held(self) -> int:
        """The position at which a stop string may have begun; that of the end of the text where none may."""
        for at, position in enumerate(self._positions):
            if any(stop.startswith(self._seen[at:]) for stop in self._stop):
                return position
        return 1 << 62
