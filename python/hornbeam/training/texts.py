"""The prompts that a model answers to be trained on: those of a user's files, or made ones."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbeam.errors import ArgumentError
from hornbeam.prompt import has_chat_template, token_ids
from hornbeam.text_file import texts_in

if TYPE_CHECKING:
    from hornbeam.lm import LM

__all__ = ["digest", "prompt_ids", "read_prompts"]


def read_prompts(
    paths: Iterable[str | PathLike[str]], skipped: Callable[[Path], Any] | None = None
) -> list[str]:
    """The prompts in files, each once, in their order.

    A file of text has one prompt a line; empty lines are left out. Lines of a file whose name ends with
    ``.jsonl`` are JSON, each a string or an object with a string ``"prompt"``, so that a prompt may have
    several lines.

    Args:
        paths: files, and folders, which stand for the text files in them.
        skipped: called with each file in a folder that is left out: it is hidden, or no text.

    Raises:
        ArgumentError: a named file is no text, a line is not as it should be, or there are not two prompts.
        OSError: a file cannot be read.
    """
    found: dict[str, None] = {}
    for file, text in texts_in(paths, skipped):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                found[_of_json(line, file, number) if file.suffix == ".jsonl" else line.strip()] = None
    if len(found) < 2:
        raise ArgumentError(f"the files of text have {len(found)} prompts, expected at least 2, one a line")
    return list(found)


def _of_json(line: str, file: Path, number: int) -> str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ArgumentError(f"{file}, line {number}, is no JSON: {error}") from None
    prompt = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(prompt, str) or not prompt.strip():
        raise ArgumentError(
            f'{file}, line {number}, is {line[:60]!r}, expected a string or an object with a string "prompt"'
        )
    return prompt


def prompt_ids(
    lm: LM, prompts: Sequence[str], count: int, tokens: int, seed: int
) -> tuple[list[list[int]], int]:
    """Some of the prompts as token ids, and how many are left out since they are too long.

    Args:
        lm: the model, whose chat template is applied where it has one.
        prompts: as text.
        count: of the prompts that are taken, at random, if there are more.
        tokens: of an answer, for which the model's context needs room.
        seed: of the choice.

    Raises:
        ArgumentError: fewer than two have room.
    """
    chosen = list(prompts)
    if len(chosen) > count:
        chosen = random.Random(seed).sample(chosen, count)
    is_chat = has_chat_template(lm.tokenizer)
    given: list[Any] = [[{"role": "user", "content": text}] if is_chat else text for text in chosen]
    ids = [token_ids(lm.engine, item) for item in given]
    room = lm.max_positions - tokens
    fitting = [item for item in ids if len(item) <= room]
    if len(fitting) < 2:
        raise ArgumentError(
            f"{len(fitting)} of {len(ids)} prompts have {max(room, 0)} tokens or less, which the model's "
            f"context of {lm.max_positions} has room for beside an answer of {tokens}; expected at least 2"
        )
    return fitting, len(ids) - len(fitting)


def digest(prompts: Sequence[Sequence[int]]) -> str:
    """Names a list of prompts."""
    return hashlib.sha256(json.dumps([list(prompt) for prompt in prompts]).encode()).hexdigest()
