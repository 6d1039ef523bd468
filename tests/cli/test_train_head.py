"""``hornbeam train-head``: what it writes and prints, what it refuses, and that a killed one goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import models
from tests.cli.conftest import Run

ROOT = Path(__file__).parent.parent.parent
QUICK = [
    "--steps",
    "6",
    "--every",
    "2",
    "--prompts",
    "24",
    "--batch",
    "12",
    "--answer-tokens",
    "16",
    "--vocabulary",
    "64",
    "--inner",
    "32",
]
HEADS = ("feature_head.safetensors", "acceptance_head.safetensors")


def test_a_head_is_trained_and_drafts(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "head"
    done = run("train-head", folder, "--out", out, *QUICK)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [str(out / name) for name in HEADS]
    for said in (
        "12 of 24 texts",
        "22 texts of ",
        "step 0, 0.0 min",
        "step 6, ",
        "acceptance: ",
        "held-out texts: the first guess is the model's best token in ",
        f"hornbeam generate --model {folder} --draft head --head {out}",
    ):
        assert said in done.stderr
    log = json.loads((out / "log.json").read_text())
    assert [entry["steps"] for entry in log["log"]] == [0, 2, 4, 6]

    again = run("train-head", folder, "--out", out, *QUICK)
    assert again.exit_code == 0, again.output
    assert "holds the whole training" in again.stderr

    asked = ["generate", "abc", "--model", folder, "-n", "8", "--json", "--device", "cpu"]
    plain = json.loads(run(*asked, "--draft", "none").stdout)
    for draft in ("head", "auto"):
        drafted = run(*asked, "--draft", draft, "--head", out)
        assert json.loads(drafted.stdout)["token_ids"] == plain["token_ids"], drafted.output
    assert json.loads(run(*asked, "--draft", "head", "--head", out).stdout)["stats"]["drafted"] > 0
    search = ["search", "abc", "--model", folder, "--max-depth", "1", "--draft", "head", "--head", out]
    assert run(*search).exit_code == 0
    chat = run("chat", "--model", folder, "--head", out, "-n", "4", stdin="hello\n/draft suffix\nhello\n")
    assert chat.exit_code == 0, chat.output


def test_prompts_of_ones_own(run: Run, folder: Path, tmp_path: Path) -> None:
    texts, out = tmp_path / "texts", tmp_path / "head"
    texts.mkdir()
    (texts / "a.txt").write_text("\n".join(f"question {number}" for number in range(20)))
    (texts / "b.jsonl").write_text('"two\\nlines"\n{"prompt": "an object"}\n')
    (texts / "picture.png").write_bytes(b"\x89PNG\r\n\0\0")
    options = ["--steps", "0", "--answer-tokens", "16", "--vocabulary", "64"]
    done = run("train-head", folder, "--out", out, "--text", texts, *options)
    assert done.exit_code == 0, done.output
    assert "1 files are left out that are hidden or no text" in done.stderr
    assert "22 of 22 prompts are answered" in done.stderr
    (texts / "a.txt").write_text("\n".join(f"question {number}" for number in range(21)))
    done = run("train-head", folder, "--out", out, "--text", texts, *options)
    assert done.exit_code == 2
    assert "holds a training on other prompts" in done.stderr


def test_a_killed_training_goes_on(run: Run, folder: Path, tmp_path: Path) -> None:
    """By a signal that no process can catch, while it takes steps; the heads are those of one that was left
    alone."""
    out, whole = tmp_path / "head", tmp_path / "whole"
    options = [*QUICK, "--every", "1"]
    command = [sys.executable, "-m", "hornbeam", "train-head", str(folder), "--out", str(out), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    checkpoint = out / "checkpoint.safetensors"
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "log.json").exists()
    done = run("train-head", folder, "--out", out, *options)
    assert done.exit_code == 0, done.output
    assert "going on after step " in done.stderr
    assert run("train-head", folder, "--out", whole, *options).exit_code == 0
    for name in HEADS:
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_refusals(run: Run, folder: Path, tmp_path: Path) -> None:
    def said(*arguments: str | Path) -> str:
        done = run("train-head", *arguments)
        assert done.exit_code == 2, done.output
        return str(done.stderr)

    out = tmp_path / "head"
    assert 'model is "none/such", expected' in said("none/such", "--out", out)
    assert "is missing, expected a text file or a folder" in said(
        folder, "--out", out, "--text", tmp_path / "x"
    )
    assert "minutes is 0.0, expected a positive" in said(folder, "--out", out, "--minutes", "0")
    assert "minutes and steps are both given" in said(folder, "-o", out, "--minutes", "1", "--steps", "1")
    assert "holds other files" in said(folder, "--out", folder)
    assert "is a file, expected a folder" in said(folder, "--out", folder / "config.json")
    assert "have 0 prompts, expected at least 2" in said(folder, "-o", out, "--text", _file(tmp_path, "\n"))
    assert not out.exists()

    models.gpt_neox().save_pretrained(tmp_path / "neox")
    assert "which holds no tokenizer, expected one of the files tokenizer.json" in said(
        tmp_path / "neox", "--out", out
    )
    models.byte_tokenizer().save_pretrained(tmp_path / "neox")
    message = (
        "a feature head cannot be trained for GPTNeoXForCausalLM: its decoder (GPTNeoXModel) has no layers"
    )
    assert message in said(tmp_path / "neox", "--out", out, *QUICK)
    assert not out.exists()

    assert run("train-head", folder, "--out", out, *QUICK).exit_code == 0
    models.llama(seed=1).save_pretrained(folder)
    assert "holds the head of another model" in said(folder, "--out", out, *QUICK)


def test_a_head_that_is_named_is_one(run: Run, folder: Path, tmp_path: Path) -> None:
    asked = ["generate", "abc", "--model", folder, "-n", "4", "--device", "cpu"]
    for draft in ("suffix", "none"):
        done = run(*asked, "--draft", draft, "--head", tmp_path)
        assert (done.exit_code, done.stderr) == (
            2,
            f"hornbeam: --head goes with --draft auto or head, got {draft}\n",
        )
    done = run(*asked, "--head", tmp_path)
    assert done.exit_code == 2
    assert "feature_head.safetensors, expected a safetensors file" in done.stderr


@pytest.fixture(autouse=True)
def no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORNBEAM_PROFILE", "off")


def _file(folder: Path, text: str) -> Path:
    file = folder / "prompts.txt"
    file.write_text(text)
    return file
