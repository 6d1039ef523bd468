"""What commands read: text that is none, folders with other things in them, texts that are too long."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.text_file import read_text
from tests.cli.conftest import Run

ROOT = Path(__file__).parent.parent.parent
LATIN = "caf\xe9".encode("latin-1")


def test_a_file_that_is_no_text_is_named_with_its_byte(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes(LATIN)
    message = f"{file} is not text in UTF-8: byte 3 is 0xe9"
    with pytest.raises(ArgumentError) as caught:
        read_text(file)
    assert str(caught.value) == message
    html, out = tmp_path / "out.html", tmp_path / "out"
    for arguments in (
        ["generate", "--file", file],
        ["keep", "--text", file, "--html", html],
        ["corpus", file, "--out", out],
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stderr) == (2, f"hornbeam: {message}\n")
    assert not html.exists()
    assert not out.exists()


def test_standard_input_that_is_no_text(run: Run, tmp_path: Path) -> None:
    expected = "hornbeam: standard input is not text in UTF-8: byte 3 is 0xe9\n"
    assert run("generate", stdin=LATIN).stderr == expected
    assert run("keep", "--text", "-", "--html", tmp_path / "x", stdin=LATIN).stderr == expected


@pytest.mark.parametrize("option", [None, "--system", "--stop"])
def test_an_argument_that_is_no_text(option: str | None) -> None:
    name = option or "the prompt"
    arguments = [LATIN] if option is None else ["hello", option, LATIN]
    done = subprocess.run(
        [sys.executable, "-m", "hornbeam", "generate", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT / "python"), "PYTHONUTF8": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"hornbeam: {name} is not text in UTF-8: character 3 is the byte 0xe9\n".encode()


def test_line_ends_are_those_of_text_files(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes("\u00e9\r\nb\rc\n".encode())
    assert read_text(file) == file.read_text(encoding="utf-8") == "\u00e9\nb\nc\n"


def test_a_corpus_of_a_folder_skips_what_is_no_text(run: Run, folder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    (texts / ".git" / "objects").mkdir(parents=True)
    (texts / ".git" / "objects" / "a").write_text("never read")
    (texts / "sub").mkdir()
    (texts / "a.txt").write_text("abc")
    (texts / "sub" / "b.py").write_text("d\u00e9", encoding="utf-8")
    (texts / "latin.txt").write_bytes(LATIN)
    (texts / "picture.png").write_bytes(b"\x89PNG\r\n\0\0")
    (texts / "zeros").write_bytes(b"ab\0c")
    (texts / ".env").write_text("secret")
    (texts / "sub" / "up").symlink_to(texts)
    out = tmp_path / "out.corpus"
    result = run("corpus", texts, "--out", out, "--model", folder)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("2 documents, 6 tokens")
    assert "skipped 6 that are hidden or no text: " in result.stderr
    assert str(texts / ".env") in result.stderr
    assert hb.spec.open_corpus(out, check=True).num_documents == 2

    result = run("corpus", texts / "a.txt", texts / "zeros", "--out", out, "--model", folder)
    assert (result.exit_code, result.stderr) == (
        2,
        f"hornbeam: {texts / 'zeros'} is not text: byte 2 is 0x00\n",
    )
    result = run("corpus", texts / ".git" / "objects", "--out", out, "--model", folder)
    assert result.exit_code == 0, "a hidden folder that is named is indexed"
    assert "skipped" not in result.stderr


def test_a_folder_without_text_is_an_error(run: Run, folder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.bin").write_bytes(b"\xff")
    (texts / ".hidden").write_text("x")
    result = run("corpus", texts, "--out", tmp_path / "out", "--model", folder)
    assert result.exit_code == 2
    assert "expected at least one of text, found 2 hidden or without text" in result.stderr


def test_the_page_of_a_text_beyond_the_context_is_refused(run: Run, folder: Path, tmp_path: Path) -> None:
    text, html = tmp_path / "text", tmp_path / "out.html"
    options = ["keep", "--text", text, "--html", html, "--model", folder, "--device", "cpu", "--budget", "9"]
    text.write_text("a" * 513)
    result = run(*options)
    assert result.exit_code == 2
    assert result.stderr == (
        "hornbeam: the text has 513 tokens, expected at most the 512 of the model's context\n"
    )
    assert not html.exists()
    text.write_text("a" * 512)
    result = run(*options)
    assert (result.exit_code, result.stdout) == (0, f"written to {html}\n"), result.output
    assert html.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_long_document_needs_no_warning(folder: Path, tmp_path: Path) -> None:
    """transformers warns of texts that are longer than the model's context; a corpus is not for the model."""
    (tmp_path / "long.txt").write_text("a" * 600)
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "hornbeam", "corpus", tmp_path / "long.txt", "--out", out, "--model", folder],
        env=os.environ | {"PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
