"""Options are checked before a model is loaded: here whoever loads one fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hornbeam.cli.opening import open_lm
from hornbeam.model import loading
from tests.cli.conftest import Run

ONE_OF = "expected one of: ada_kv, ems"


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(loading, "check", lambda _: None)
    for name in ("resolve", "load_model", "load_tokenizer"):
        monkeypatch.setattr(loading, name, fail)


@pytest.mark.usefixtures("no_model")
class TestBeforeAModelIsLoaded:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--temperature", "-1"], "temperature is -1"),
            (["--temperature", "nan"], "temperature is NaN"),
            (["--top-k", "0"], "top_k is 0, expected at least 1"),
            (["--top-p", "1.5"], "top_p is 1.5"),
            (["--min-p", "2"], "min_p is 2"),
            (["--repetition-penalty", "0"], "repetition_penalty is 0"),
            (["--frequency-penalty", "inf"], "frequency_penalty is inf"),
            (["--presence-penalty", "nan"], "presence_penalty is NaN"),
            (["--seed", "-1"], "seed is -1, expected 0 to 18446744073709551615"),
            (["--seed", str(1 << 64)], "seed is 18446744073709551616, expected 0 to"),
            (["--stop", ""], "--stop is an empty text"),
            (["--system", "x", "--raw"], "--system is a part of the chat template, which --raw leaves out"),
            (["--draft", "none", "--corpus", "x"], "--corpus goes with --draft auto or suffix, got none"),
            (["--corpus", "no/such"], "No such file"),
            (["--keep", "snapkv"], f'--keep is "snapkv", {ONE_OF}'),
            (["--keep", "snap_kv", "--keep-budget", "200%"], "budget is '200%', expected at most 100%"),
            (["--keep", "snap_kv", "--keep-budget", "much"], "budget is 'much', expected tokens a head"),
            (["--keep-budget", "10%"], "--keep-budget goes with --keep, which is not given"),
            (["--head-scores", "x"], "--head-scores goes with --keep, which is not given"),
            (["--keep", "sparse_mm", "--keep-budget", "9"], "sparse_mm needs --head-scores"),
            (["--keep", "tova", "--head-scores", "x"], "--head-scores goes with --keep sparse_mm, got tova"),
            (["--attend", "quests"], '--attend is "quests", expected one of: inf_llm, quest, twilight'),
            (["--attend-amount", "9"], "--attend-amount goes with --attend, which is not given"),
            (["--attend", "quest", "--attend-amount", "0"], "pages is 0, expected a number of pages"),
            (["--attend", "window", "--attend-amount", "9%"], '--attend-amount is "9%", expected a number'),
            (["--compare", "--attend", "quest"], "leave out --attend"),
            (["--device", "banana"], 'device is "banana", expected cpu, cuda or cuda:1'),
            (["--device", "meta"], 'device is "meta", expected cpu, cuda or cuda:1'),
            (["--trace", "no/such/folder.html"], "No such file"),
            (["--compare", "--temperature", "0.5"], "leave out --temperature"),
            (["--compare", "--stop", "a", "--keep", "int8"], "leave out --stop, --keep"),
            (["--compare", "--frequency-penalty", "1"], "leave out --frequency-penalty"),
            (["--compare", "--presence-penalty", "1"], "leave out --presence-penalty"),
            (["--compare", "-n", "0"], "--max-new-tokens is 0, expected at least 1 with --compare"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else None,
    )
    def test_generate(self, run: Run, options: list[str], message: str) -> None:
        result = run("generate", "hello", *options)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1
        assert result.stderr.startswith("hornbeam: ")
        assert message in result.stderr

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
    def test_a_device_that_is_not_there(self, run: Run) -> None:
        for command in (["generate", "hello"], ["keep", "--text", __file__, "--html", "/dev/null"]):
            result = run(*command, "--device", "cuda")
            assert result.exit_code == 2
            assert "AssertionError" not in result.stderr
            assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize("option", ["--max-new-tokens", "--top-k", "--temperature", "--draft", "--dtype"])
    def test_what_is_no_value_of_its_kind(self, run: Run, option: str) -> None:
        result = run("generate", "hello", option, "-x")
        assert result.exit_code == 2
        assert option in result.stderr
        assert "loaded" not in result.stderr

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--recipe", "none"], f'--recipe is "none", {ONE_OF}'),
            (["--budget", "-3"], "budget is '-3', expected tokens a head"),
            (["--recipe", "sparse_mm"], "sparse_mm needs --head-scores"),
            (["--head-scores", "x"], "--head-scores goes with --recipe sparse_mm, got snap_kv"),
            (["--recipe", "sparse_mm", "--head-scores", "x"], "path is x, expected a safetensors file"),
            (["--device", "tpu"], 'device is "tpu", expected cpu'),
            (["--html", "no/such/folder.html"], "No such file"),
            (["--text", "no/such/file"], "No such file"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else None,
    )
    def test_keep(self, run: Run, tmp_path: Path, options: list[str], message: str) -> None:
        html = tmp_path / "out.html"
        result = run("keep", "--text", __file__, "--html", html, *options)
        assert result.exit_code == 2, result.output
        assert result.stderr.count("\n") == 1
        assert message in result.stderr
        assert not html.exists()

    def test_corpus(self, run: Run, tmp_path: Path) -> None:
        result = run("corpus", tmp_path / "none", "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert "none is missing, expected a text file or a folder" in result.stderr
        result = run("corpus", __file__, "--out", tmp_path / "none" / "out")
        assert result.exit_code == 2
        assert "No such file" in result.stderr


@pytest.mark.parametrize("name", ["generate", "search", "keep", "corpus"])
def test_a_model_that_there_is_not(run: Run, tmp_path: Path, name: str) -> None:
    rest = {
        "generate": ["hello"],
        "search": ["hello"],
        "keep": ["--text", __file__, "--html", tmp_path / "out.html"],
        "corpus": [__file__, "--out", tmp_path / "out"],
    }
    result = run(name, *rest[name], "--model", "none/such")
    assert result.exit_code == 2
    assert 'model is "none/such", expected "smollm2" or a local folder of safetensors' in result.stderr
    result = run(name, *rest[name], "--model", tmp_path)
    assert "expected one that holds a config.json" in result.stderr
    assert sorted(tmp_path.iterdir()) == []


def test_a_model_that_is_there_is_opened(folder: Path) -> None:
    """The loader that the tests above replace is the one that is used."""
    from hornbeam.cli.screen import Screen

    tokenizer = loading.load_tokenizer(folder)
    lm = open_lm("tiny", folder, tokenizer, "bfloat16", "cpu", Screen())
    assert lm.model.dtype == torch.bfloat16
    assert lm.tokenizer is tokenizer
