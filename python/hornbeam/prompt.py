"""Prompts: what a caller may give for a text, as the token ids that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from hornbeam.errors import ArgumentError

__all__ = ["Prompt", "end_tokens", "prompts_of", "token_ids"]


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
        ArgumentError: it is empty, has a token id out of range, or is text and there is no tokenizer.
    """
    if isinstance(item, torch.Tensor):
        item = item.tolist()
    chat = isinstance(item, (list, tuple)) and bool(item) and isinstance(item[0], dict)
    if isinstance(item, str) or chat:
        if reader.tokenizer is None:
            raise ArgumentError(f"{what} is text, but this LM has no tokenizer; give token ids")
        if chat:
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


def end_tokens(model: Any, given: int | Sequence[int] | None) -> frozenset[int]:
    """The tokens that end a sequence: those given, or else the model's own."""
    if given is None:
        config = getattr(model, "generation_config", None)
        given = getattr(config, "eos_token_id", None)
        if given is None:
            given = getattr(model.config.get_text_config(), "eos_token_id", None)
    if given is None:
        return frozenset()
    return frozenset([given] if isinstance(given, int) else given)
