"""A suffix index of many documents in one file: built once, and mapped into memory by all who use it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from hornbeam._native import SuffixCorpus, SuffixCorpusBuilder
from hornbeam.errors import ArgumentError
from hornbeam.speculation.protocols import as_ids
from hornbeam.text_file import texts_in

__all__ = ["build_corpus", "index_files", "open_corpus", "save_corpus"]

StrPath = str | os.PathLike[str]


def build_corpus(documents: Iterable[Sequence[int]]) -> SuffixCorpus:
    """Indexes documents of token ids, one after the other, in about a microsecond a token.

    Args:
        documents: token ids of each document.

    Raises:
        ArgumentError: a token id of 2**32 - 1 or more than 2**30 tokens in all.
    """
    builder = SuffixCorpusBuilder()
    for document in documents:
        builder.push(as_ids(document))
    return builder.finish()


def index_files(
    paths: Iterable[StrPath],
    tokenizer: Any,
    *,
    progress: Callable[[Path, int], Any] | None = None,
    skipped: Callable[[Path], Any] | None = None,
) -> SuffixCorpus:
    """Indexes text files, one document each, as ``tokenizer`` splits them, without special tokens.

    A folder stands for the text files in it and below it, in alphabetical order. Left out are what is hidden
    there (its name begins with a dot, as that of ``.git``), links to folders, and files that are no text:
    text is UTF-8 without a zero byte. A file that is named must be text.

    Args:
        paths: files and folders.
        tokenizer: of transformers: ``tokenizer(text, add_special_tokens=False)`` gives ``input_ids``.
        progress: called as ``progress(file, tokens so far)`` after each file.
        skipped: called as ``skipped(path)`` for each file or folder within a folder that is left out.

    Raises:
        ArgumentError: no file, none that is text, or a named one that is no text.
        OSError: a file that cannot be read.
    """
    builder = SuffixCorpusBuilder()
    num_files, left_out = 0, list[Path]()

    def leave_out(file: Path) -> None:
        left_out.append(file)
        if skipped is not None:
            skipped(file)

    for file, text in texts_in(paths, leave_out):
        num_files += 1
        builder.push(tokenizer(text, add_special_tokens=False)["input_ids"])
        if progress is not None:
            progress(file, builder.num_tokens)
    if not num_files:
        instead = f", found {len(left_out)} hidden or without text" if left_out else ""
        raise ArgumentError(f"there is no file to index, expected at least one of text{instead}")
    return builder.finish()


def save_corpus(corpus: SuffixCorpus, path: StrPath) -> None:
    """Writes an index to ``path``, whole or not at all: it takes the place of an old file only when it is
    complete, so processes that have the old one mapped keep it.

    Args:
        corpus: the index.
        path: the file to write.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        corpus.save(fresh)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def open_corpus(path: StrPath, *, check: bool = False) -> SuffixCorpus:
    """Maps an index that :func:`save_corpus` wrote. Only the pages that lookups visit are read, and all
    processes share them. The file must not be changed or cut while it is open; replace it instead.

    Args:
        path: the file.
        check: reads all of it and compares it with its checksum.

    Raises:
        ArgumentError: another kind of file, another version, a damaged header, a wrong size, or (with
            ``check``) a damaged body.
        OSError: the file cannot be read.
    """
    path = Path(path)
    size = path.stat().st_size
    if size % 4 or size < 64:
        raise ArgumentError(f"{path} is {size} bytes long, expected a corpus: words of 4 bytes, 64 at least")
    words = torch.from_file(str(path), shared=False, size=size // 4, dtype=torch.int32)
    try:
        corpus = SuffixCorpus.from_words(words)
        if check:
            corpus.check()
    except ArgumentError as error:
        raise ArgumentError(f"{path}: {error}") from None
    return corpus
