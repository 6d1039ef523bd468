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
) -> SuffixCorpus:
    """Indexes text files, one document each, as ``tokenizer`` splits them, without special tokens.

    A folder stands for the files in it and below it, in alphabetical order. ``progress(file, tokens so
    far)`` is called after each file.

    Args:
        paths: files, and folders of files.
        tokenizer: of transformers: ``tokenizer(text, add_special_tokens=False)`` gives ``input_ids``.
        progress: called after each file.

    Raises:
        ArgumentError: no file, or one that is not UTF-8 text.
        OSError: a file that cannot be read.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        files += sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if not files:
        raise ArgumentError("there is no file to index, expected at least one")
    builder = SuffixCorpusBuilder()
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ArgumentError(f"{file} is not text in UTF-8: byte {error.start} does not fit") from None
        builder.push(tokenizer(text, add_special_tokens=False)["input_ids"])
        if progress is not None:
            progress(file, builder.num_tokens)
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
