"""A grammar of JSON objects as a logits processor, in plain Python: what benches of grammars are held to.

The objects of a list of fields are a regular language. It is walked by derivatives (Brzozowski, *Derivatives
of regular expressions*, 1964): a state is the expression that the rest of the text has to match.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

__all__ = ["Matcher", "PureMatcher", "Vocabulary", "objects"]

Expression = tuple[Any, ...]
"""``("empty",)`` matches the empty text; ``("chars", set)`` one character of the set, ``("other", set)`` one
that is not in it; ``("then", a, b)``, ``("or", a, b)`` and ``("many", a)`` what they say."""

Kind = Literal["string", "integer", "boolean", "strings"]

_EMPTY: Expression = ("empty",)
_DIGITS = frozenset("0123456789")
# Neither the end of a string, nor an escape, nor what JSON allows in no string.
_STRING: Expression = ("many", ("other", frozenset('"\\\n\r\t\ufffd')))


def _then(first: Expression | None, second: Expression | None) -> Expression | None:
    if first is None or second is None:
        return None
    if first == _EMPTY:
        return second
    return first if second == _EMPTY else ("then", first, second)


def _text(text: str) -> Expression:
    found: Expression | None = _EMPTY
    for char in reversed(text):
        found = _then(("chars", frozenset(char)), found)
    assert found is not None
    return found


def _all(*parts: Expression) -> Expression:
    found: Expression | None = _EMPTY
    for part in reversed(parts):
        found = _then(part, found)
    assert found is not None
    return found


def objects(fields: Mapping[str, Kind]) -> Expression:
    """JSON objects with these fields, in their order."""
    string = _all(_text('"'), _STRING, _text('"'))
    digit: Expression = ("chars", _DIGITS)
    kinds: dict[Kind, Expression] = {
        "string": string,
        "integer": _all(("chars", _DIGITS - {"0"}), ("many", digit)),
        "boolean": ("or", _text("true"), _text("false")),
        "strings": _all(_text("["), string, ("many", _all(_text(", "), string)), _text("]")),
    }
    parts = [_text("{")]
    for place, (name, kind) in enumerate(fields.items()):
        parts += [_text(f'{", " if place else ""}"{name}": '), kinds[kind]]
    return _all(*parts, _text("}"))


def _is_nullable(expression: Expression) -> bool:
    """Whether the empty text matches."""
    kind = expression[0]
    if kind == "then":
        return _is_nullable(expression[1]) and _is_nullable(expression[2])
    if kind == "or":
        return _is_nullable(expression[1]) or _is_nullable(expression[2])
    return kind in ("empty", "many")


def _derived(expression: Expression, char: str) -> Expression | None:
    """What has to follow ``char``; None where nothing can."""
    kind = expression[0]
    if kind in ("chars", "other"):
        return _EMPTY if (char in expression[1]) == (kind == "chars") else None
    if kind == "many":
        return _then(_derived(expression[1], char), expression)
    if kind == "or":
        return _either(_derived(expression[1], char), _derived(expression[2], char))
    if kind == "then":
        first = _then(_derived(expression[1], char), expression[2])
        second = _derived(expression[2], char) if _is_nullable(expression[1]) else None
        return _either(first, second)
    return None


def _either(first: Expression | None, second: Expression | None) -> Expression | None:
    if first is None or second is None or first == second:
        return second if first is None else first
    return ("or", first, second)


class Vocabulary:
    """The texts of a tokenizer's tokens, and which of them may follow in each state. What was found out about
    a state is remembered: a second text of the same grammar costs next to nothing."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        special = set(tokenizer.all_special_ids)
        self.texts = ["" if token in special else str(tokenizer.decode([token])) for token in range(size)]
        self.eos_token_id = int(tokenizer.eos_token_id)
        self._steps: dict[tuple[Expression, str], Expression | None] = {}
        self._masks: dict[Expression, torch.Tensor] = {}

    def after(self, state: Expression | None, text: str) -> Expression | None:
        """The state after a text."""
        for char in text:
            if state is None:
                return None
            key = (state, char)
            if key not in self._steps:
                self._steps[key] = _derived(state, char)
            state = self._steps[key]
        return state

    def ruled_out(self, state: Expression) -> torch.Tensor:
        """The tokens that cannot follow, ``[V]`` booleans."""
        if state not in self._masks:
            allowed = [bool(text) and self.after(state, text) is not None for text in self.texts]
            allowed[self.eos_token_id] = _is_nullable(state)
            self._masks[state] = ~torch.tensor(allowed)
        return self._masks[state]


class Matcher:
    """Follows one text, as the matchers of grammars do: it takes the last token of a call, and the first call
    takes none."""

    def __init__(self, vocabulary: Vocabulary, grammar: Expression) -> None:
        self.vocabulary = vocabulary
        self.state = grammar
        self._is_begun = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._is_begun:
            token = int(input_ids[0, -1])
            state = self.vocabulary.after(self.state, self.vocabulary.texts[token])
            if state is None:
                raise ValueError(f"token {token} does not follow in the grammar")
            self.state = state
        self._is_begun = True
        return scores.masked_fill_(self.vocabulary.ruled_out(self.state), -torch.inf)


class PureMatcher:
    """Finds the state of any text that goes on from the prompt, so that it may be asked about guesses."""

    is_pure = True

    def __init__(self, vocabulary: Vocabulary, grammar: Expression, prompt_length: int) -> None:
        self.vocabulary = vocabulary
        self.prompt_length = prompt_length
        self._states: dict[tuple[int, ...], Expression] = {(): grammar}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        path = tuple(input_ids[0, self.prompt_length :].tolist())
        if path not in self._states:
            known = next(path[:end] for end in range(len(path) - 1, -1, -1) if path[:end] in self._states)
            for end in range(len(known) + 1, len(path) + 1):
                text = self.vocabulary.texts[path[end - 1]]
                state = self.vocabulary.after(self._states[path[: end - 1]], text)
                if state is None:
                    return scores  # nothing is asked below a token that is ruled out
                self._states[path[:end]] = state
        return scores.masked_fill_(self.vocabulary.ruled_out(self._states[path]), -torch.inf)
