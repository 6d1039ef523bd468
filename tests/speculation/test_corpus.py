"""Corpus files: what was written is what is read, and nothing else is taken for one."""

from __future__ import annotations

import random
import struct

import pytest
import torch

import hornbeam as hb
from hornbeam._native import SuffixCorpusBuilder
from hornbeam.errors import ArgumentError, ShapeError, StateError
from hornbeam.speculation import SuffixCorpus


class Letters:
    """A tokenizer of one id a character."""

    def __call__(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}


@pytest.fixture
def documents():
    random_ = random.Random(0)
    return [[random_.randrange(6) for _ in range(size)] for size in (300, 0, 1, 800)]


def test_a_mapped_corpus_drafts_as_the_one_in_memory(tmp_path, documents):
    corpus = hb.spec.build_corpus(documents)
    hb.spec.save_corpus(corpus, tmp_path / "a.corpus")
    mapped = hb.spec.open_corpus(tmp_path / "a.corpus", check=True)
    assert (tmp_path / "a.corpus").stat().st_size == mapped.num_bytes == corpus.num_bytes
    assert (mapped.num_tokens, mapped.num_documents, mapped.vocab_size) == (1105, 4, 6)
    random_ = random.Random(1)
    for tree in (False, True):
        drafters = [hb.spec.Suffix(corpus=c, tree=tree).start([]) for c in (SuffixCorpus(documents), mapped)]
        for _ in range(200):
            token = random_.randrange(6)
            proposals = [drafter.propose(token, 12) for drafter in drafters]
            assert proposals[0].tokens == proposals[1].tokens
            assert proposals[0].signals.confidences == proposals[1].signals.confidences
            for drafter in drafters:
                drafter.extend([token])


def test_a_mapped_corpus_outlives_its_file_and_its_tensor(tmp_path, documents):
    path = tmp_path / "a.corpus"
    hb.spec.save_corpus(hb.spec.build_corpus(documents), path)
    mapped = hb.spec.open_corpus(path)
    hb.spec.save_corpus(hb.spec.build_corpus([[7] * 10]), path)
    drafter = hb.spec.Suffix(corpus=mapped).start(documents[3][:20])
    assert drafter.propose((), 5).tokens == documents[3][20:25]
    assert hb.spec.open_corpus(path).vocab_size == 8
    assert [file.name for file in tmp_path.iterdir()] == ["a.corpus"], "nothing half written is left"


def test_files_and_folders_are_indexed(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("bcd", encoding="utf-8")
    (tmp_path / "sub" / "a.txt").write_text("xyz", encoding="utf-8")
    seen = []
    corpus = hb.spec.index_files([tmp_path], Letters(), progress=lambda file, n: seen.append((file.name, n)))
    assert seen == [("b.txt", 4), ("a.txt", 8)]
    drafter = hb.spec.Suffix(corpus=corpus).start([ord("x")])
    assert drafter.propose((), 9).tokens == [ord("y"), ord("z")]
    (tmp_path / "c.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArgumentError, match=r"c.bin is not text in UTF-8: byte 0"):
        hb.spec.index_files([tmp_path / "c.bin"], Letters())
    with pytest.raises(ArgumentError, match="no file to index"):
        hb.spec.index_files([], Letters())
    with pytest.raises(FileNotFoundError):
        hb.spec.index_files([tmp_path / "missing.txt"], Letters())


def test_other_files_are_refused_with_the_reason(tmp_path, documents):
    path = tmp_path / "a.corpus"
    hb.spec.save_corpus(hb.spec.build_corpus(documents), path)
    good = path.read_bytes()

    def opened(data: bytes, **options):
        path.write_bytes(data)
        return hb.spec.open_corpus(path, **options)

    for data, reason in [
        (good[:30], "is 30 bytes long, expected a corpus"),
        (good[:-4], "it was cut or grew"),
        (good + b"\0\0\0\0", "it was cut or grew"),
        (b"PK\x03\x04" * 100, "begins with 04034b50"),
        (good[:8] + struct.pack("<I", 2) + good[12:], "version of a corpus file is 2, expected 1"),
        (good[:16] + struct.pack("<I", 5) + good[20:], "the header is damaged"),
    ]:
        with pytest.raises(ArgumentError, match=reason):
            opened(data)
    damaged = good[:100] + bytes([good[100] ^ 1]) + good[101:]
    assert opened(damaged).num_tokens == 1105, "the body is not read unless asked"
    with pytest.raises(ArgumentError, match="the file is damaged"):
        opened(damaged, check=True)
    with pytest.raises(ShapeError, match="float32"):
        SuffixCorpus.from_words(torch.zeros(100))
    with pytest.raises(FileNotFoundError):
        hb.spec.open_corpus(tmp_path / "none")


def test_a_builder_is_finished_once():
    builder = SuffixCorpusBuilder()
    with pytest.raises(ArgumentError, match="token id is 4294967295"):
        builder.push([1, 2**32 - 1])
    assert builder.num_tokens == 0
    builder.finish()
    with pytest.raises(StateError, match="was finished"):
        builder.push([1])
    with pytest.raises(StateError, match="was finished"):
        builder.finish()
