"""``hornbeam info --measure``: what it shows is what later runs begin with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hornbeam.machine import Profile, kept
from tests.cli.conftest import Run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, and few rows to compare."""
    monkeypatch.setenv("HORNBEAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HORNBEAM_PROFILE", "on")
    monkeypatch.setattr(kept, "_OPEN", {})
    monkeypatch.setattr("hornbeam.engine.measuring.KERNEL_ROWS", (1, 2, 20))
    return tmp_path / "cache"


def test_what_was_measured_is_shown_and_kept(run: Run, folder: Path, cache: Path) -> None:
    shown = run("info", "--measure", "--model", folder)
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert "linear 192x96 float32" in lines
    assert any(line.split()[:2] == ["1", "row"] and line.endswith("ms") for line in lines)
    found = run("info", "--measure", "--model", folder, "--json")
    report = json.loads(found.stdout)
    assert {"rows", "kernel", "times_as_fast", "pairs", "operation"} <= set(report["kernels"][0])
    assert [rows for rows, _ in report["cost"]][:3] == [1, 2, 4]
    [file] = (cache / "profiles").iterdir()
    assert report["profile"] == str(file)
    assert len(Profile.load(file).measured()) == len(report["kernels"])
    assert json.loads(run("info", "--json").stdout)["profiles"] == [str(file)]


def test_refusals(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for option, value in (("--model", str(folder)), ("--dtype", "bfloat16")):
        assert run("info", option, value).stderr == f"hornbeam: {option} is given without --measure\n"
    monkeypatch.setenv("HORNBEAM_PROFILE", "off")
    refused = run("info", "--measure", "--model", folder)
    assert refused.stderr == "hornbeam: --measure is given with HORNBEAM_PROFILE=off, expected 'on'\n"
