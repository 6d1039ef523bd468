"""Prompts: what a caller may give for a text, as the token ids that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from hornbeam.errors import ArgumentError
from hornbeam.integers import integer_tensor

__all__ = [
    "Prompt",
    "continuation_ids",
    "end_tokens",
    "has_chat_template",
    "prompts_of",
    "scored_prompt",
    "token_ids",
]


class Reader(Protocol):
    """What reads prompts: :class:`hornbeam.Engine` is one."""

    tokenizer: Any
    max_positions: int
    runner: Any


Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""Raw text, token ids, or chat messages."""


def prompts_of(reader: Reader, prompt: Any) -> tuple[list[list[int]], bool]:
    """Token ids of each prompt, and whether the caller gave a list of prompts.

    Raises:
        ArgumentError: no prompt, or one that is empty, longer than the model's context, or has a token id
            out of range.
    """
    if isinstance(prompt, torch.Tensor):
        prompt = prompt.tolist()
    if not isinstance(prompt, (str, list, tuple)):
        raise ArgumentError(
            f"prompt is a {type(prompt).__name__}, "
            "expected text, token ids, chat messages, or a list of these"
        )
    many = isinstance(prompt, (list, tuple)) and bool(prompt) and not isinstance(prompt[0], (int, dict))
    items = list(prompt) if many else [prompt]
    ids = [token_ids(reader, item) for item in items]
    for item in ids:
        if len(item) > reader.max_positions:
            raise ArgumentError(
                f"prompt has {len(item)} tokens, expected at most the model's "
                f"{reader.max_positions} positions"
            )
    return ids, many


def token_ids(reader: Reader, item: Any, what: str = "prompt", *, special: bool = True) -> list[int]:
    """The token ids of one text, of one chat (by the model's chat template), or those given.

    Args:
        reader: has the tokenizer and the size of the vocabulary.
        item: text, chat messages, or token ids.
        what: its name in messages.
        special: add the tokenizer's special tokens to a text, as to one that begins.

    Raises:
        ArgumentError: it is empty, has a token id out of range, is text and there is no tokenizer, or is a
            chat and the tokenizer has no chat template.
    """
    if isinstance(item, torch.Tensor):
        item = item.tolist()
    chat = isinstance(item, (list, tuple)) and bool(item) and isinstance(item[0], dict)
    if isinstance(item, str) or chat:
        if reader.tokenizer is None:
            raise ArgumentError(f"{what} is text, but this LM has no tokenizer; give token ids")
        if chat:
            if not has_chat_template(reader.tokenizer):
                raise ArgumentError(
                    f"{what} is a chat, and the tokenizer has no chat template; give text or token ids, or "
                    "set tokenizer.chat_template"
                )
            item = reader.tokenizer.apply_chat_template(
                list(item), add_generation_prompt=True, tokenize=True, return_dict=False
            )
        else:
            item = reader.tokenizer(item, add_special_tokens=special)["input_ids"]
    ids = [int(token) for token in item]
    if not ids:
        raise ArgumentError(f"{what} is empty, expected at least one token")
    vocab = reader.runner.shape.vocab_size
    for token in ids:
        if not 0 <= token < vocab:
            raise ArgumentError(f"{what} holds token id {token}, expected 0 to {vocab - 1}")
    return ids


def has_chat_template(tokenizer: Any) -> bool:
    """Whether a tokenizer can write a chat: by a template, or in a way of its own."""
    if getattr(tokenizer, "chat_template", None):
        return True
    # mistral-common's tokenizers write chats without a template.
    method = getattr(type(tokenizer), "apply_chat_template", None)
    return method is not None and method.__module__ != "transformers.tokenization_utils_base"


def continuation_ids(reader: Reader, prompt: Any, continuation: Any) -> list[int]:
    """The token ids of a continuation. A text after a text is what it adds there: where the prompt ends with
    spaces, tokenizers begin the next word with them (:func:`scored_prompt` takes them off the prompt).

    Raises:
        ArgumentError: as :func:`token_ids` does.
    """
    if not (isinstance(prompt, str) and isinstance(continuation, str)) or reader.tokenizer is None:
        return token_ids(reader, continuation, "continuation", special=False)
    if not continuation:
        raise ArgumentError("continuation is empty, expected at least one token")
    # As lm-evaluation-harness has it: the tokens of both together that follow as many as the prompt has.
    before = token_ids(reader, scored_prompt(prompt))
    both = token_ids(reader, prompt + continuation)
    return both[len(before) :] or token_ids(reader, continuation, "continuation", special=False)


def scored_prompt(prompt: Any) -> Any:
    """A prompt whose continuations are scored: a text without the spaces at its end, unless it is nothing
    else."""
    return (prompt.rstrip() or prompt) if isinstance(prompt, str) else prompt


def end_tokens(model: Any, given: Any = None, tokenizer: Any = None) -> frozenset[int]:
    """The tokens that end a sequence: those given, or else the model's own.

    Args:
        model: has a config, and mostly a generation config.
        given: one or several ids, also as a tensor or an array, or the text of one token.
        tokenizer: knows the ids of texts.

    Raises:
        ArgumentError: it is neither.
    """
    if given is None:
        config = getattr(model, "generation_config", None)
        given = getattr(config, "eos_token_id", None)
        if given is None:
            given = getattr(model.config.get_text_config(), "eos_token_id", None)
    if given is None:
        return frozenset()
    if isinstance(given, str):
        found = None if tokenizer is None else tokenizer.get_vocab().get(given)
        if found is None:
            raise ArgumentError(f"eos_token_id is {given!r}, expected token ids or the text of one token")
        given = found
    if isinstance(given, (set, frozenset)):
        given = list(given)
    return frozenset(integer_tensor(given, "eos_token_id").flatten().tolist())
