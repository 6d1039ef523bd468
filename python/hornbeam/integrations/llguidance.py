"""Texts that fit a JSON schema, a regular expression or a grammar, by llguidance's matcher.

``lm.generate(prompt, logits_processor=llguidance.json_schema(lm, schema))``: the text ends as soon as nothing
can follow, drafts are masked as the text is, and every sample has a matcher of its own. The grammar is
compiled once, when it is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from hornbeam.engine.processors import EachPrompt
from hornbeam.errors import ArgumentError, MissingExtra
from hornbeam.prompt import end_tokens

__all__ = ["Matching", "json_object", "json_schema", "lark", "regex"]

#: llguidance's view of a tokenizer takes a second to make: by tokenizer, then by vocabulary and end tokens.
_TOKENIZERS: WeakKeyDictionary[Any, dict[tuple[int, tuple[int, ...]], Any]] = WeakKeyDictionary()


def json_schema(lm: Any, schema: Mapping[str, Any] | bool) -> EachPrompt:
    """Texts that are JSON of a schema.

    Args:
        lm: an :class:`hornbeam.LM`, or its engine.
        schema: a JSON schema. What llguidance does not know of it is refused, not ignored.

    Raises:
        ArgumentError: it is none, or the model has no end token to end a text with.
        MissingExtra: llguidance is not installed.
    """
    return _compiled(lm, "schema", lambda matcher: matcher.grammar_from_json_schema(json.dumps(schema)))


def json_object(lm: Any) -> EachPrompt:
    """Texts that are a JSON object, whatever it holds.

    Args:
        lm: an :class:`hornbeam.LM`, or its engine.

    Raises:
        ArgumentError: as :func:`json_schema` does.
        MissingExtra: llguidance is not installed.
    """
    return json_schema(lm, {"type": "object"})


def regex(lm: Any, pattern: str) -> EachPrompt:
    """Texts that match a regular expression as a whole, in the syntax of Rust's ``regex`` crate.

    Args:
        lm: an :class:`hornbeam.LM`, or its engine.
        pattern: the expression.

    Raises:
        ArgumentError: as :func:`json_schema` does.
        MissingExtra: llguidance is not installed.
    """
    return _compiled(lm, "regex", lambda matcher: matcher.grammar_from_regex(pattern))


def lark(lm: Any, grammar: str) -> EachPrompt:
    """Texts of a context-free grammar in llguidance's variant of Lark, which begins at ``start``.

    Args:
        lm: an :class:`hornbeam.LM`, or its engine.
        grammar: the grammar.

    Raises:
        ArgumentError: as :func:`json_schema` does.
        MissingExtra: llguidance is not installed.
    """
    return _compiled(lm, "grammar", lambda matcher: matcher.grammar_from_lark(grammar))


class Matching:
    """A logits processor that rules out every token after which no text of a grammar remains.

    Its answer depends on the tokens alone: it steps back to where two paths of a draft part.

    Args:
        matcher: llguidance's, at the beginning of a text.
        prompt_length: tokens before the text.
        end_ids: the tokens that end a text, int64 ``[n]``: all that is left once nothing else can follow.
    """

    is_pure = True

    def __init__(self, matcher: Any, prompt_length: int, end_ids: torch.Tensor) -> None:
        self._matcher = matcher
        self._prompt_length = prompt_length
        self._end_ids = end_ids
        self._seen: list[int] = []  # what the matcher has consumed

    def __call__(self, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The logits ``[1, V]`` after ``input_ids [1, n]``, with -inf for what is ruled out.

        Raises:
            ArgumentError: the grammar has become too large to be matched.
        """
        path = input_ids[0, self._prompt_length :].tolist()
        pairs = enumerate(zip(path, self._seen, strict=False))
        common = next((i for i, (a, b) in pairs if a != b), min(len(path), len(self._seen)))
        if common < len(self._seen):
            self._matcher.rollback(len(self._seen) - common)
        consumed = self._matcher.try_consume_tokens(path[common:])
        self._seen = path[: common + consumed]
        if self._matcher.is_error():
            raise ArgumentError(f"the grammar cannot be matched any further: {self._matcher.get_error()}")
        if len(self._seen) < len(path) or self._matcher.is_stopped():
            ended = torch.full_like(logits, -torch.inf)
            ended[:, self._end_ids] = logits[:, self._end_ids]
            return ended
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = torch.from_numpy(bits[: logits.shape[-1]].astype(bool)).to(logits.device)
        return logits.masked_fill(~allowed, -torch.inf)


def _compiled(lm: Any, name: str, make: Any) -> EachPrompt:
    """A matcher of its own for each text, all copies of one that is compiled here."""
    try:
        import llguidance
    except ImportError as error:
        raise MissingExtra("grammars need llguidance: pip install 'hornbeam[grammar]'") from error
    engine = getattr(lm, "engine", lm)
    if engine.tokenizer is None:
        raise ArgumentError(f"{name} is given, but this LM has no tokenizer, which grammars need")
    ends = sorted(end_tokens(engine.model))
    if not ends:
        raise ArgumentError(
            f"{name} is given, but the model has no end token, which ends a text of a grammar"
        )
    try:
        grammar = make(llguidance.LLMatcher)
    except ValueError as error:
        raise ArgumentError(f"{name} cannot be read: {error}") from error
    compiled = llguidance.LLMatcher(
        _tokenizer(engine.tokenizer, engine.runner.shape.vocab_size, ends), grammar, log_level=0
    )
    if compiled.is_error():
        raise ArgumentError(f"{name} cannot be read: {compiled.get_error()}")
    if warnings := compiled.get_grammar_warnings():
        raise ArgumentError(f"{name} holds what is not honoured: {'; '.join(warnings)}")
    end_ids = torch.tensor(ends, dtype=torch.int64)
    return EachPrompt(lambda index, prompt: Matching(compiled.deep_copy(), len(prompt), end_ids))


def _tokenizer(tokenizer: Any, vocab_size: int, ends: list[int]) -> Any:
    import llguidance.hf

    known = _TOKENIZERS.setdefault(tokenizer, {})
    key = vocab_size, tuple(ends)
    if key not in known:
        try:
            known[key] = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocab_size, eos_token=ends)
        except ValueError as error:
            raise ArgumentError(f"llguidance cannot use this tokenizer: {error}") from error
    return known[key]
