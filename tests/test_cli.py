"""The command line: what is printed where, exit codes, and the comparison with transformers."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from hornbeam.bench.compare import Clock, Timing, compare
from hornbeam.cli import choices, commands, opening
from hornbeam.cli.screen import Screen
from hornbeam.engine.checkpoint import Checkpoint
from hornbeam.errors import UnsupportedModel
from hornbeam.model import loading
from tests.models import byte_tokenizer, llama

ROOT = Path(__file__).parent.parent


@dataclass
class Stats:
    forward_passes: int = 3
    rows: int = 9
    drafted: int = 4
    accepted: int = 2
    emitted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_kv_bytes: int = 1_500_000
    attend_keys: int = 0


@dataclass
class Generation:
    text: str
    token_ids: list[int]
    finish_reason: str
    stats: Stats


class StandIn:
    """A language model with the interface of ``hornbeam.LM`` that plain transformers answers for."""

    def __init__(self, change_last: bool = False) -> None:
        self.model = llama()
        self.tokenizer = byte_tokenizer()
        self.engine = SimpleNamespace(checkpoint=Checkpoint(self.model))
        self.max_positions = 512
        self.calls: list[dict[str, Any]] = []
        self.change_last = change_last

    def generate(self, prompt: list[int], **options: Any) -> Generation:
        self.calls.append({"prompt": prompt, **options})
        ids = torch.tensor([prompt])
        new: list[int] = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=options["max_new_tokens"],
        )[0, len(prompt) :].tolist()
        if self.change_last:
            new[-1] ^= 1
        for i, token in enumerate(new):
            if options.get("stream"):
                options["stream"](self.tokenizer.decode([token]), [token], "draft" if i % 2 else "plain")
        return Generation(self.tokenizer.decode(new), new, "length", Stats(emitted=len(new)))

    def calibrate(self) -> None:
        """Nothing to measure."""

    def clear_cache(self) -> None:
        self.calls.append({"cleared": True})


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    lm = StandIn()
    monkeypatch.setattr(loading, "check", lambda _: None)
    monkeypatch.setattr(opening, "prepared", lambda *_: Path())
    monkeypatch.setattr(opening, "open_tokenizer", lambda *_: lm.tokenizer)
    monkeypatch.setattr(opening, "open_lm", lambda *_: lm)
    monkeypatch.setattr(choices, "draft", lambda name, *_files: name)
    return lm


def run(*arguments: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(commands.app, list(arguments), input=stdin)


def decoded(lm: StandIn, call: int = 0) -> str:
    text: str = lm.tokenizer.decode(lm.calls[call]["prompt"])
    return text


def test_text_goes_to_stdout_and_the_rest_to_stderr(stand_in: StandIn) -> None:
    result = run("generate", "hello", "-n", "6")
    assert result.exit_code == 0
    expected = stand_in.tokenizer.decode(
        stand_in.generate(stand_in.calls[0]["prompt"], max_new_tokens=6).token_ids
    )
    assert result.stdout == expected + "\n"
    assert "6 tokens in" in result.stderr
    assert "2 tokens accepted of 4 drafted" in result.stderr
    assert "KV 1.5 MB at most" in result.stderr
    assert "\x1b" not in result.stderr


def test_options_reach_the_model(stand_in: StandIn) -> None:
    options = {"temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.05, "seed": 11, "max_new_tokens": 3}
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    result = run("generate", "hello", *flags, "--stop", "a", "--stop", "b", "--draft", "none")
    assert result.exit_code == 0, result.output
    call = stand_in.calls[0]
    assert {name: call[name] for name in options} == options
    assert call["stop"] == ["a", "b"]
    assert call["draft"] == "none"


def test_the_chat_template_is_used_where_there_is_one(stand_in: StandIn) -> None:
    run("generate", "hello", "-n", "1")
    run("generate", "hello", "-n", "1", "--system", "be brief")
    run("generate", "hello", "-n", "1", "--raw")
    assert [decoded(stand_in, call) for call in range(3)] == [
        "<user>hello<assistant>",
        "<system>be brief<user>hello<assistant>",
        "hello",
    ]
    stand_in.tokenizer.chat_template = None
    run("generate", "hello", "-n", "1")
    assert decoded(stand_in, 3) == "hello"


def test_a_file_follows_the_prompt(stand_in: StandIn, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("été\n\n", encoding="utf-8")
    run("generate", "hello", "--file", str(file), "--raw", "-n", "1")
    run("generate", "--file", str(file), "--raw", "-n", "1")
    run("generate", "--raw", "-n", "1", stdin="from a pipe")
    run("generate", "hello", "--file", "-", "--raw", "-n", "1", stdin="from a pipe")
    assert [decoded(stand_in, call) for call in range(4)] == [
        "hello\n\nété\n",
        "été\n",
        "from a pipe",
        "hello\n\nfrom a pipe",
    ]


def test_json_is_one_object(stand_in: StandIn) -> None:
    result = run("generate", "hello", "-n", "5", "--json", "--compare")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert len(report["token_ids"]) == 5
    assert report["text"] == stand_in.tokenizer.decode(report["token_ids"])
    assert report["stats"]["peak_kv_bytes"] == 1_500_000
    assert report["compare"]["identical"] is True
    assert report["compare"]["first_difference"] is None
    assert report["compare"]["total_ratio"] > 0
    assert report["timing"]["decode_tokens_per_second"] > 0


def test_compare_runs_both_warm_and_says_identical(stand_in: StandIn) -> None:
    result = run("generate", "hello", "-n", "12", "--compare")
    assert result.exit_code == 0, result.output
    assert [("cleared" in call) for call in stand_in.calls] == [False, True, False]
    lines = result.stderr.splitlines()
    assert any(line.startswith("hornbeam") and " 12 " in line for line in lines)
    assert any(line.startswith("transformers") and " 12 " in line for line in lines)
    assert any(line.startswith("ratio") and line.count("x") == 2 for line in lines)
    assert lines[-1] == "the text is identical"


def test_compare_says_where_the_text_differs(stand_in: StandIn) -> None:
    stand_in.change_last = True
    result = run("generate", "hello", "-n", "12", "--compare")
    assert result.stderr.splitlines()[-1] == "the text differs, first at token 11"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "hello", "--compare", "--temperature", "0.5"], "--compare is for greedy text"),
        (["generate", "hello", "--compare", "--stop", "x"], "--compare is for greedy text"),
        (["generate", "hello", "--raw", "--system", "x"], "--system is a part of the chat template"),
        (["generate", "  "], "the prompt is empty"),
        (["generate", "hello", "--file", "no/such/file"], "No such file"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(stand_in: StandIn, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("hornbeam: ")


def test_an_unknown_model_is_one_line_and_exit_code_2() -> None:
    result = run("generate", "hello", "--model", "org/name")
    assert result.exit_code == 2
    assert result.stderr.startswith('hornbeam: model is "org/name", expected "smollm2" or a local folder')
    assert "`hf download org/name --local-dir FOLDER`" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_system_message_needs_a_template(stand_in: StandIn) -> None:
    stand_in.tokenizer.chat_template = None
    result = run("generate", "hello", "--system", "be brief")
    assert result.exit_code == 2
    assert result.stderr == "hornbeam: --system needs a chat template, and this model has none\n"


def test_an_unexpected_error_names_its_kind(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(stand_in, "generate", fail)
    result = run("generate", "hello")
    assert result.exit_code == 2
    assert result.stderr == "hornbeam: RuntimeError: first line second line\n"
    shown = run("generate", "hello", "--debug")
    assert isinstance(shown.exception, RuntimeError)


def test_ctrl_c_is_exit_code_130(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stand_in, "generate", interrupt)
    assert run("generate", "hello").exit_code == 130


def test_an_interrupted_text_is_kept(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def part(prompt: list[int], **options: Any) -> Generation:
        options["stream"]("so far", [1, 2], "plain")
        return Generation("so far", [1, 2], "interrupted", Stats())

    monkeypatch.setattr(stand_in, "generate", part)
    result = run("generate", "hello")
    assert result.exit_code == 130
    assert result.stdout == "so far\n"


def test_drafts_are_coloured_on_a_terminal_and_control_codes_are_not_obeyed() -> None:
    screen = Screen()
    screen.out = Console(file=io.StringIO(), force_terminal=True, color_system="standard", highlight=False)
    for text, source in [("plain [b]", "plain"), ("draft", "draft"), ("\x1b[2Jend\n", "plain")]:
        screen.token_text(text, [1], source)
    assert screen.out.file.getvalue() == "plain [b]\x1b[32mdraft\x1b[0m\ufffd[2Jend\n"


def test_a_refusal_is_not_disguised(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise UnsupportedModel("it has no attention")

    monkeypatch.setattr(opening, "open_lm", refuse)
    assert run("generate", "hello").stderr == "hornbeam: it has no attention\n"


def test_info_tells_the_build() -> None:
    result = run("info", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["version"] == facts["version"].strip() != ""
    assert {"instruction_set", "torch", "threads", "prepared_models"} <= set(facts)
    plain = run("info")
    assert plain.exit_code == 0
    assert any(line.split() == ["version", facts["version"]] for line in plain.stdout.splitlines())


def test_the_module_runs_and_usage_errors_end_with_2() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    command = [sys.executable, "-m", "hornbeam"]
    done = subprocess.run([*command, "--help"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "generate" in done.stdout
    done = subprocess.run(
        [*command, "generete"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_missing_extra_is_one_line() -> None:
    code = (
        "import sys, importlib.util as u\n"
        "found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'typer' else found(name, *a)\n"
        "from hornbeam.cli import main\n"
        "main(['info'])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "hornbeam: the command line needs typer: pip install 'hornbeam[cli]'\n"


def test_rates_leave_the_prefill_out() -> None:
    timing = Timing(num_tokens=11, seconds=3.0, first_tokens=1, first_seconds=1.0)
    assert timing.decode_rate == 5.0
    assert timing.total_rate == pytest.approx(11 / 3)
    assert Timing(1, 2.0, 1, 2.0).decode_rate is None
    assert Timing(0, 2.0, 0, 2.0).total_rate is None


def test_a_shorter_text_differs_at_its_end() -> None:
    model = llama()
    timing = Clock().stop(3)
    ids = [5, 6, 7]
    full = compare(model, ids, [], timing, 4)
    assert full.first_difference == 0
    assert full.transformers.num_tokens == 4
    assert full.transformers.first_tokens == 1


def test_a_corpus_is_written_and_drawn_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hornbeam import speculation

    class Letters:
        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            return {"input_ids": [ord(letter) for letter in text]}

    monkeypatch.setattr(loading, "check", lambda _: None)
    monkeypatch.setattr(loading, "resolve", lambda *_, **__: tmp_path)
    monkeypatch.setattr(loading, "load_tokenizer", lambda _: Letters())
    (tmp_path / "a.txt").write_text("abcabd", encoding="utf-8")
    out = tmp_path / "a.corpus"
    result = CliRunner().invoke(commands.app, ["corpus", str(tmp_path / "a.txt"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "1 documents, 6 tokens" in result.stdout
    drafter = choices.draft("suffix", out).start([ord("c")])
    assert drafter.propose(ord("a"), 4).tokens == [ord("b"), ord("d")]
    with_corpus = choices.draft("auto", out)
    assert isinstance(with_corpus, speculation.Auto)
    assert with_corpus.corpus is not None
    assert choices.draft("auto", None) == speculation.Auto()
    result = CliRunner().invoke(commands.app, ["generate", "x", "--draft", "none", "--corpus", str(out)])
    assert result.exit_code == 2
    assert "--corpus goes with --draft auto or suffix, got none" in result.stderr


def test_a_trace_that_cannot_be_written_is_known_before_the_text(stand_in: StandIn, tmp_path: Path) -> None:
    result = CliRunner().invoke(commands.app, ["generate", "x", "--trace", str(tmp_path / "no" / "out.html")])
    assert result.exit_code == 2
    assert "No such file" in result.stderr
    assert not result.stdout
