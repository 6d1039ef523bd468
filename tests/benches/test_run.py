"""Benches run where the package is, with a checkout and without one."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hornbeam.bench import harness, kvpress_peer, run
from hornbeam.build import build_info
from hornbeam.errors import MissingExtra

BENCH = Path(run.__file__).parent
#: What the extra ``bench`` installs, and the peers, which a bench asks for before it imports them.
KNOWN = {"hornbeam", "numpy", "tokenizers", "torch", "transformers"}
PEERS = {"flashinfer", "kvpress", "lm_eval", "ray", "sgl_kernel", "vllm", "xgrammar"}
#: What lm_eval stands on.
PEERS |= {"datasets", "pyarrow"}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]


@pytest.mark.parametrize("file", sorted(BENCH.glob("*.py")), ids=lambda file: file.stem)
def test_nothing_of_a_checkout_is_imported(file: Path) -> None:
    assert set(imported(file)) <= KNOWN | PEERS | set(sys.stdlib_module_names)


def test_help_lists_every_bench_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(["--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, text in run.described().items():
        assert text.endswith("."), f"the docstring of bench {name} does not begin with one line: {text!r}"
        assert f"{name} {text}" in shown
    assert len(run.described()) == len(list(BENCH.glob("bench_*.py")))


def planted(monkeypatch: pytest.MonkeyPatch, bench: Any) -> None:
    """A module in the place of every bench."""
    monkeypatch.setattr(run, "importlib", SimpleNamespace(import_module=lambda name: bench))


class Rows:
    @staticmethod
    def run(quick: bool, only: list[str] | None = None) -> dict[str, Any]:
        return {"quick": quick, "only": only}


def test_a_quick_look_is_printed_and_kept_where_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(monkeypatch, Rows)
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "by default")
    run.main(["tree", "--quick"])
    assert json.loads(capsys.readouterr().out.partition("\n")[2]) == {"quick": True, "only": None}
    assert not list(tmp_path.iterdir())
    run.main(["tree", "--quick", "--only", "a", "--out", str(tmp_path / "named")])
    run.main(["tree"])
    [named], [default] = ((tmp_path / name).iterdir() for name in ("named", "by default"))
    report = json.loads(named.read_text())
    assert report["results"] == {"quick": True, "only": ["a"]}
    assert report["command"] == "hornbeam bench tree --quick --only a"
    assert default.name.startswith("tree-")
    assert default.name == named.name


def test_what_was_not_measured_leaves_no_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Skipped:
        @staticmethod
        def run(quick: bool) -> dict[str, Any]:
            return {"skipped": "there is no device"}

    planted(monkeypatch, Skipped)
    run.main(["cuda", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_line_and_the_other_benches_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def find(name: str) -> Any:
        if name.endswith("bench_tree"):
            raise ModuleNotFoundError("No module named 'peer.part'", name="peer.part")
        return Rows

    monkeypatch.setattr(run, "importlib", SimpleNamespace(import_module=find))
    with pytest.raises(SystemExit) as ended:
        run.main(["all", "--out", str(tmp_path)])
    assert ended.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line]
    assert line.startswith("hornbeam: bench tree: the package peer is not installed: pip install")
    assert len(list(tmp_path.iterdir())) == len(run.described()) - 1


def test_a_peer_that_cannot_be_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def install(words: list[Any], **_: Any) -> Any:
        return subprocess.CompletedProcess(words, "pip" in words, stdout=str(tmp_path))

    monkeypatch.setenv("HORNBEAM_CACHE", str(tmp_path))
    monkeypatch.setattr(kvpress_peer.venv, "create", lambda folder, **_: folder.mkdir(parents=True))
    monkeypatch.setattr(kvpress_peer.subprocess, "run", install)
    for _ in range(2):
        with pytest.raises(MissingExtra, match=r"kvpress .*, the peer of this bench, could not be installed"):
            kvpress_peer.environment()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "invalid choice: 'nothing'"),
        (["all", "--json", "file"], "--json takes the result of one bench"),
        (["tree", "--json", "file", "--out", "folder"], "--json takes the result of one bench"),
    ],
)
def test_wrong_words_are_refused(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run.main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_bench_runs_without_a_checkout(tmp_path: Path) -> None:
    """The package alone, in a folder of its own; ``make test-wheel`` does the same with a wheel."""
    packages, work = tmp_path / "packages", tmp_path / "work"
    packages.mkdir()
    work.mkdir()
    (packages / "hornbeam").symlink_to(BENCH.parent, target_is_directory=True)
    words = ["bench", "step_overhead", "--quick", "--only", "batch_1", "--out", "results"]
    done = subprocess.run(
        [sys.executable, "-m", "hornbeam", *words],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [file] = (work / "results").iterdir()
    report = json.loads(file.read_text())
    assert report["results"]["batch_1"]["step_seconds"] > 0
    assert report["machine"]["revision"] == build_info()["version"]
    assert str(tmp_path) not in file.read_text()
