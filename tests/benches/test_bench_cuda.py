"""The bench of the CUDA lane, where no device is: its checks by emulation, its arguments, its refusal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hornbeam import cuda
from hornbeam.bench import bench_cuda as bench
from tests import models
from tests.cuda.emulator import emulation

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.skipif(cuda.status()["available"], reason="there is a device: make bench-cuda")


def test_every_pair_does_the_same_work() -> None:
    with cuda.emulated(emulation().lane):
        names = bench.check()
    assert names.count("sdpa folded") == 2
    assert "softmax path" in names


def test_a_wrong_result_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bench.ops.tree_attention
    monkeypatch.setattr(bench.ops, "tree_attention", lambda *a, **o: right(*a, **o).add_(0.1))
    with cuda.emulated(emulation().lane), pytest.raises(AssertionError):
        bench.check()


def test_all_decoders_write_one_text() -> None:
    with cuda.emulated(emulation().lane):
        calls = bench.decoders(models.llama(), "cpu", 5)
        texts = [call() for call in calls.values()]
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) == 5


def test_peers_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "installed", lambda *modules: modules[0] == "vllm")
    assert bench.absent_peers() == ["flashinfer", "sgl_kernel"]


def test_arguments() -> None:
    chosen = bench.arguments(["--quick"])
    assert chosen.quick
    assert not chosen.check
    with pytest.raises(SystemExit):
        bench.arguments(["--best"])


def test_without_a_device_it_says_why_and_fails() -> None:
    assert bench.run(quick=True) == {"skipped": cuda.status()["reason"]}
    done = subprocess.run(
        [sys.executable, "-m", "hornbeam.bench.bench_cuda", "--quick"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("nothing measured: ")
