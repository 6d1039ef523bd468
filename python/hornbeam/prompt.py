"""Prompts: what a caller may give for a text, as the token ids that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np
import torch

from hornbeam.errors import ArgumentError
from hornbeam.integers import integer_tensor

__all__ = [
    "Prompt",
    "chat_ids",
    "chat_text",
    "continuation_ids",
    "end_tokens",
    "has_chat_template",
    "is_answer_begun",
    "predicted_ids",
    "prompts_of",
    "scored_texts",
    "text_ids",
    "token_ids",
]


class Reader(Protocol):
    """What reads prompts: :class:`hornbeam.Engine` is one."""

    tokenizer: Any
    max_positions: int
    runner: Any


Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""Raw text, token ids, or chat messages."""


def prompts_of(reader: Reader, prompt: Any, attention_mask: Any = None) -> tuple[list[list[int]], bool]:
    """Token ids of each prompt, and whether the caller gave a list of prompts.

    Args:
        reader: has the tokenizer, the model and its limits.
        prompt: as :meth:`hornbeam.LM.generate` has it.
        attention_mask: 0 where there is padding, in the shape of the prompts.

    Raises:
        ArgumentError: no prompt, or one that is empty, longer than the model's context, or has a token id
            out of range; or a mask that does not belong to it.
    """
    if isinstance(prompt, Mapping):
        prompt, attention_mask = _of_encoding(prompt, attention_mask)
    if isinstance(prompt, (torch.Tensor, np.ndarray)):
        prompt, attention_mask = _of_array(reader, prompt, attention_mask)
    if not isinstance(prompt, (str, list, tuple)):
        raise ArgumentError(
            f"prompt is a {type(prompt).__name__}, "
            "expected text, token ids, chat messages, or a list of these"
        )
    many = isinstance(prompt, (list, tuple)) and bool(prompt) and not _is_part(prompt[0])
    items: list[Any] = list(prompt) if many else [prompt]
    if attention_mask is not None:
        items = _unpadded(items, attention_mask if many else [attention_mask])
    ids = [token_ids(reader, item) for item in items]
    for item in ids:
        if len(item) > reader.max_positions:
            raise ArgumentError(
                f"prompt has {len(item)} tokens, expected at most the model's "
                f"{reader.max_positions} positions"
            )
    return ids, many


def _is_part(value: Any) -> bool:
    """Whether it is one token id, or one message of a chat, rather than a prompt."""
    if isinstance(value, Mapping):
        return "input_ids" not in value
    return getattr(value, "shape", None) == () or isinstance(value, (Integral, Real))


def _of_encoding(encoding: Mapping[str, Any], attention_mask: Any) -> tuple[Any, Any]:
    """Ids and mask of what a tokenizer gave."""
    if "input_ids" not in encoding:
        raise ArgumentError(
            f"prompt is a dict of {', '.join(map(repr, encoding))}, expected input_ids, or a list of messages"
        )
    if attention_mask is not None and "attention_mask" in encoding:
        raise ArgumentError("attention_mask is given twice, expected it in the encoding or beside it")
    for name, value in encoding.items():
        if name == "token_type_ids" and not np.any(np.asarray(value)):
            continue
        if name not in ("input_ids", "attention_mask"):
            raise ArgumentError(f"the encoding has {name}, expected input_ids and attention_mask alone")
    return encoding["input_ids"], encoding.get("attention_mask", attention_mask)


def _of_array(reader: Reader, prompt: Any, attention_mask: Any) -> tuple[Any, Any]:
    """Ids and mask of a tensor or an array ``[n]`` or ``[B, n]``. Where there is no mask padding is known by
    its token, as in transformers."""
    ids = integer_tensor(prompt, "prompt")
    if ids.dim() not in (1, 2):
        raise ArgumentError(f"prompt has the shape {list(ids.shape)}, expected [n] or [B, n]")
    if attention_mask is None and ids.dim() == 2:
        config = getattr(reader.runner.model, "generation_config", None)
        pad = getattr(config, "pad_token_id", None)
        if pad is not None and pad not in end_tokens(reader.runner.model) and bool((ids == pad).any()):
            attention_mask = (ids != pad).long()
            if bool(((attention_mask.diff(dim=1) != 0).sum(dim=1) > 1).any()):
                raise ArgumentError(
                    f"prompt holds the padding token {pad} within a text; attention_mask= says which count"
                )
    return ids.tolist(), attention_mask


def _unpadded(items: list[Any], attention_mask: Any) -> list[list[int]]:
    """Prompts without their padding.

    Raises:
        ArgumentError: the mask is of another shape, holds other numbers than 0 and 1, or leaves out tokens
            within a prompt.
    """
    masks = attention_mask.tolist() if hasattr(attention_mask, "tolist") else list(attention_mask)
    masks = [mask.tolist() if hasattr(mask, "tolist") else mask for mask in masks]
    if len(masks) != len(items):
        raise ArgumentError(f"attention_mask has {len(masks)} rows, expected one a prompt, {len(items)}")
    found = []
    for number, (item, mask) in enumerate(zip(items, masks, strict=True)):
        if isinstance(item, (str, Mapping)) or not hasattr(item, "__len__"):
            raise ArgumentError("attention_mask is given for a text, expected prompts of token ids")
        if not isinstance(mask, (list, tuple)) or len(mask) != len(item):
            raise ArgumentError(f"attention_mask of prompt {number} does not have its length, {len(item)}")
        if any(value not in (0, 1) for value in mask):
            raise ArgumentError(f"attention_mask of prompt {number} is {mask}, expected zeros and ones")
        seen = [place for place, value in enumerate(mask) if value]
        if seen and seen[-1] - seen[0] + 1 != len(seen):
            raise ArgumentError(
                f"attention_mask of prompt {number} has zeros between ones, expected padding on the "
                "left or on the right alone"
            )
        found.append(list(item[seen[0] : seen[-1] + 1]) if seen else [])
    return found


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
    if isinstance(item, Mapping):
        rows, _ = prompts_of(reader, item)
        if len(rows) != 1:
            raise ArgumentError(f"{what} is an encoding of {len(rows)} prompts, expected one")
        return rows[0]
    chat = isinstance(item, (list, tuple)) and bool(item) and isinstance(item[0], Mapping)
    if isinstance(item, str) or chat:
        if reader.tokenizer is None:
            raise ArgumentError(f"{what} is text, but this LM has no tokenizer; give token ids")
        ids = chat_ids(reader.tokenizer, item) if chat else text_ids(reader.tokenizer, item, special)
    else:
        if not isinstance(item, (list, tuple, torch.Tensor, np.ndarray)):
            raise ArgumentError(f"{what} is {item!r}, expected text, token ids or chat messages")
        ids = integer_tensor(item, what).flatten().tolist() if len(item) else []
    if not ids:
        raise ArgumentError(f"{what} is empty, expected at least one token")
    vocab = reader.runner.shape.vocab_size
    for token in ids:
        if not 0 <= token < vocab:
            raise ArgumentError(f"{what} holds token id {token}, expected 0 to {vocab - 1}")
    return ids


def predicted_ids(reader: Reader, prediction: Any) -> list[int]:
    """The token ids of what a text is expected to be; none of an empty or missing prediction.

    Raises:
        ArgumentError: as :func:`token_ids` does, or it is a chat.
    """
    if prediction is None or (hasattr(prediction, "__len__") and len(prediction) == 0):
        return []
    if isinstance(prediction, (list, tuple)) and isinstance(prediction[0], Mapping):
        raise ArgumentError("prediction is a chat, expected text or token ids")
    return token_ids(reader, prediction, "prediction", special=False)


def text_ids(tokenizer: Any, text: str, special: bool = True) -> list[int]:
    """The token ids of a text. Of a text that begins with the token that begins texts, as a chat template
    writes them, the tokenizer's own is left out."""
    ids = [int(token) for token in tokenizer(text, add_special_tokens=special)["input_ids"]]
    begin = getattr(tokenizer, "bos_token", None)
    is_twice = special and ids[:2] == [getattr(tokenizer, "bos_token_id", None)] * 2
    return ids[1:] if begin and is_twice and text.startswith(begin) else ids


def chat_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The token ids of a chat, up to where the model is to speak.

    Raises:
        ArgumentError: as :func:`chat_text` does.
    """
    return [int(token) for token in _templated(tokenizer, messages, tokenize=True, return_dict=False)]


def chat_text(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of a chat, up to where the model is to speak: behind what it has said already, if the last
    message is its own.

    Raises:
        ArgumentError: the tokenizer has no chat template, or its template refuses the messages.
    """
    text: str = _templated(tokenizer, messages, tokenize=False)
    return text


def _templated(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **options: Any) -> Any:
    is_open = is_answer_begun(messages)
    if not has_chat_template(tokenizer):
        raise ArgumentError(
            "prompt is a chat, and the tokenizer has no chat template; give text or token ids, or set "
            "tokenizer.chat_template"
        )
    try:
        return tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=not is_open, continue_final_message=is_open, **options
        )
    except Exception as error:  # templates are programs of the model's authors
        raise ArgumentError(f"the chat template refuses the messages: {error}") from error


def is_answer_begun(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a chat ends with a message of the model, which is to be gone on with."""
    return bool(messages) and messages[-1].get("role") == "assistant"


def scored_texts(
    reader: Reader, prompt: Any, continuations: Any
) -> tuple[list[list[int]], list[list[list[int]]], bool]:
    """What :meth:`hornbeam.LM.score` is to score: token ids of each prompt and of its continuations, and
    whether the caller gave a list of prompts.

    Raises:
        ArgumentError: as :meth:`hornbeam.LM.score` does.
    """
    given = scored_prompt(reader, prompt)
    if isinstance(prompt, (list, tuple)) and prompt:
        given = [scored_prompt(reader, one) for one in prompt]
    prompts, many = prompts_of(reader, given)
    groups = list(continuations) if many else [continuations]
    if len(groups) != len(prompts):
        raise ArgumentError(
            f"score takes one prompt, or one list of continuations a prompt, got {len(prompts)} prompts and "
            f"{len(groups)} lists"
        )
    for group in groups:
        if isinstance(group, str):
            raise ArgumentError(f"continuations are {group!r}, expected a list of texts or token ids")
    texts = list(prompt) if many else [prompt]
    ids = [
        [continuation_ids(reader, text, more) for more in group]
        for text, group in zip(texts, groups, strict=True)
    ]
    return prompts, ids, many


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
    if not prompt:
        return token_ids(reader, continuation, "continuation", special=False)
    # As lm-evaluation-harness has it: the tokens of both together that follow as many as the prompt has.
    before = token_ids(reader, scored_prompt(reader, prompt))
    both = token_ids(reader, prompt + continuation)
    return both[len(before) :] or token_ids(reader, continuation, "continuation", special=False)


def scored_prompt(reader: Reader, prompt: Any) -> Any:
    """A prompt whose continuations are scored: a text without the spaces at its end, unless it is nothing
    else. One without tokens is the token that begins texts, or else the one that ends them, as in
    lm-evaluation-harness.

    Raises:
        ArgumentError: it has no tokens, and there is no such token.
    """
    if isinstance(prompt, str):
        text = prompt.rstrip() or prompt
        if text or reader.tokenizer is None or text_ids(reader.tokenizer, text):
            return text
    elif not (hasattr(prompt, "__len__") and len(prompt) == 0):
        return prompt
    model = reader.runner.model
    configs = (getattr(model, "generation_config", None), model.config.get_text_config())
    for name in ("bos_token_id", "eos_token_id"):
        for source in (reader.tokenizer, *configs):
            token = getattr(source, name, None)
            if token is not None:
                return [token[0] if isinstance(token, (list, tuple)) else token]
    raise ArgumentError("prompt is empty and the model has no token that begins texts, expected a prompt")


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
