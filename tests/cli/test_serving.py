"""``hornbeam serve`` as a process, and ``hornbeam chat`` with what somebody types."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from hornbeam.cli import opening
from hornbeam.errors import ArgumentError
from tests import models
from tests.cli.conftest import Run

ROOT = Path(__file__).parent.parent.parent


def test_serve_answers_and_stops(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "hornbeam",
        "serve",
        "--model",
        str(folder),
        "--name",
        "tiny",
        "--port",
        "0",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python"), "HORNBEAM_API_KEYS": "secret"}
    # In a shell's background SIGINT is ignored, which a child inherits.
    ours = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=ours
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("serving tiny at http://127.0.0.1:"), line + process.stderr.read()
            headers = {"Authorization": "Bearer secret"}
            with httpx.Client(base_url=line.split()[-1], headers=headers, timeout=300) as client:
                fields = {"model": "tiny", "prompt": "hello", "max_tokens": 3}
                assert client.post("/v1/completions", json=fields).json()["usage"]["completion_tokens"] == 3
                assert client.get("/v1/models", headers={"Authorization": ""}).status_code == 401
            process.send_signal(signal.SIGINT)
            assert process.wait(300) == 130
            assert process.stderr.read() == ""
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "--api-key"),
        (["--max-seconds", "0"], "seconds is 0"),
        (["--max-kv", "much"], "max_kv_bytes"),
        (["--model", "none/such"], "none/such"),
    ],
)
def test_serve_refuses(run: Run, folder: Path, options: list[str], said: str) -> None:
    done = run("serve", "--model", folder, *options)
    assert done.exit_code == 2
    assert said in done.stderr


def test_serve_hands_on_what_the_model_is_to_be(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_lm(*arguments: Any, **options: Any) -> Any:
        raise ArgumentError(f"given {options}")

    monkeypatch.setattr(opening, "open_lm", open_lm)
    done = run("serve", "--model", folder, "--batch-invariant", "--max-kv", "1GB")
    assert "given {'max_kv_bytes': '1GB', 'batch_invariant': True}" in " ".join(done.stderr.split())


def typed(run: Run, folder: Path, *lines: str, options: tuple[str, ...] = ()) -> tuple[list[str], str]:
    """The answers to what is typed, and what is said about them."""
    done = run("chat", "--model", folder, "-n", "6", "--draft", "none", *options, stdin="\n".join(lines))
    assert done.exit_code == 0, done.stderr
    return done.stdout.split("\n"), done.stderr


def test_chat_answers_as_generate_does(run: Run, folder: Path) -> None:
    import hornbeam as hb

    answers, notes = typed(run, folder, "hi", "/set", "exit", options=("--system", "be brief"))
    lm = hb.LM(models.llama(), models.byte_tokenizer())
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert "\n".join(answers).startswith(lm.generate(messages, max_new_tokens=6, draft=None).text)
    assert "6 tokens" in notes
    assert "max_new_tokens 6" in notes
    assert "system be brief" in notes


def test_chat_keeps_its_prefix(run: Run, folder: Path) -> None:
    _, notes = typed(run, folder, "x" * 100, "again")
    kept = [line for line in notes.splitlines() if "from the cache" in line]
    assert len(kept) == 2
    reused, total = (int(word) for word in kept[1].split("; ")[-1].split() if word.isdigit())
    assert reused > 100
    assert total - reused < 40


def test_chat_saves_loads_and_takes_back(run: Run, folder: Path, tmp_path: Path) -> None:
    path, text = tmp_path / "chat.json", tmp_path / "text"
    text.write_text("a file", encoding="utf-8")
    _, notes = typed(
        run,
        folder,
        "/set temperature 0.5",
        "/set stop",
        "one",
        "!multi",
        "two",
        "lines",
        "!end",
        f"/read {text}",
        "three",
        "/regen",
        "/draft suffix",
        f"/save {path}",
    )
    assert "hornbeam:" not in notes
    saved = json.loads(path.read_text(encoding="utf-8"))
    said = [message["content"] for message in saved["messages"] if message["role"] == "user"]
    assert said == ["one", "two\nlines", "a file\n\nthree"]
    assert saved["settings"] == {"temperature": 0.5, "max_new_tokens": 6, "seed": 1}
    assert saved["draft"] == "suffix"
    other = tmp_path / "other.json"
    typed(run, folder, f"/load {path}", f"/save {other}")
    assert json.loads(other.read_text(encoding="utf-8")) == saved


def test_chat_refuses_and_goes_on(run: Run, folder: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"messages": [{"role": "user", "content": "x"}], "settings": {}, "draft": "none"}')
    answers, notes = typed(
        run,
        folder,
        "/set top_p 3",
        "/set wit 1",
        "/set seed x",
        "/draft oracle",
        "/save",
        "/load none",
        f"/load {wrong}",
        "/regen",
        "/jump",
        "y" * 600,
        "hi",
    )
    refused = [line for line in notes.splitlines() if line.startswith("hornbeam:")]
    assert len(refused) == 10
    for line, said in zip(
        refused,
        (
            "top_p",
            "wit",
            "seed",
            "oracle",
            "/save",
            "none",
            "roles",
            "nothing was said",
            "/jump",
            "positions",
        ),
        strict=True,
    ):
        assert said in line
    assert "6 tokens" in notes
    assert "".join(answers)
