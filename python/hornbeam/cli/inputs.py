"""What a command is given to read: texts, and the token ids that they become."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hornbeam.errors import ArgumentError
from hornbeam.text_file import decoded, read_text

__all__ = ["prompt_text", "require_text", "text_of", "token_ids"]


def prompt_text(prompt: str | None, file: Path | None) -> str:
    """The prompt, and after it the text of the file; standard input where there is neither.

    Raises:
        ArgumentError: there is no text, or it is not UTF-8.
        OSError: the file cannot be read.
    """
    parts = []
    if prompt is not None:
        require_text(prompt, "the prompt")
        parts.append(prompt)
    if file is not None or prompt is None:
        parts.append(text_of(Path("-") if file is None else file))
    text = "\n\n".join(parts)
    if not text.strip():
        raise ArgumentError("the prompt is empty, expected some text")
    return text


def text_of(file: Path) -> str:
    """The text of a file, or of standard input for ``-``."""
    if str(file) != "-":
        # The newline that ends a file is no part of the text: tokenizers join it with what follows.
        return read_text(file).removesuffix("\n")
    if sys.stdin.isatty():
        print("reading the text from the terminal; Ctrl-D on a line of its own ends it", file=sys.stderr)
    return decoded(sys.stdin.buffer.read(), "standard input")


def require_text(value: str, name: str) -> None:
    """Refuses an argument that was not UTF-8: Python has marks in place of the bytes that do not fit."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(value[error.start]) & 0xFF
        raise ArgumentError(
            f"{name} is not text in UTF-8: character {error.start} is the byte 0x{byte:02x}"
        ) from None


def token_ids(tokenizer: Any, text: str, system: str | None, raw: bool) -> list[int]:
    """The token ids of a text as it is, or of a chat where the tokenizer has a template for it.

    Raises:
        ArgumentError: there is a system message and no template.
    """
    from hornbeam.prompt import has_chat_template

    if raw or not has_chat_template(tokenizer):
        if system is not None:
            raise ArgumentError("--system needs a chat template, and this model has none")
        return list(tokenizer(text)["input_ids"])
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])
