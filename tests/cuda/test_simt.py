"""The emulation sees what it is there to see: mistakes planted in kernels."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda.emulator import ROOT, Emulation, build, compiler

HERE = Path(__file__).parent
THREADS = 256


class Planted(ctypes.Structure):
    _fields_ = [("out", ctypes.POINTER(ctypes.c_float)), ("sound", ctypes.c_int32)]


def run(kernel: str, sound: bool, seed: int, sanitize: bool = False) -> tuple[str, list[float]]:
    simt = Emulation(build([HERE / "planted.cu"], sanitize))
    simt.seed(seed)
    out = (ctypes.c_float * THREADS)()
    report = simt.launch(kernel, 1, THREADS, Planted(out, int(sound)), shared=4 * THREADS)
    return report, list(out)


def test_a_missing_barrier_shows_in_some_order() -> None:
    want = [float((i + 1) % THREADS) for i in range(THREADS)]
    for seed in (0, 1, 2, 3):
        assert run("planted_barrier", True, seed) == ("", want)
        report, got = run("planted_barrier", False, seed)
        assert report == ""
        assert got != want
    # What was not yet written reads as NaN, not as a leftover of the last block.
    assert any(x != x for x in run("planted_barrier", False, 0)[1])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_divergent_collective_is_a_deadlock(seed: int) -> None:
    assert run("planted_divergence", True, seed)[0] == ""
    report = run("planted_divergence", False, seed)[0]
    assert "deadlock" in report
    assert "128 exited" in report
    assert "128 at divergent __shfl_xor_sync planted.cu:" in report


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_barriers_at_once_are_divergent(seed: int) -> None:
    assert run("planted_two_barriers", True, seed)[0] == ""
    assert "divergent barrier" in run("planted_two_barriers", False, seed)[0]


def test_an_overrun_of_shared_memory_is_reported() -> None:
    assert run("planted_shared_overrun", True, 0)[0] == ""
    assert "past the end of shared memory" in run("planted_shared_overrun", False, 0)[0]


def test_blocks_that_the_kernel_does_not_allow_are_refused() -> None:
    simt = Emulation(build([HERE / "planted.cu"]))
    out = (ctypes.c_float * 512)()
    assert "512 threads, the kernel allows 256" in simt.launch("planted_barrier", 1, 512, Planted(out, 1))


def sanitized(code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with the address sanitizer loaded first."""
    found = subprocess.run([compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            "LD_PRELOAD": found.stdout.strip(),
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
            "PYTHONPATH": "python:.",
            "PYTHONMALLOC": "malloc",
            "OMP_NUM_THREADS": "1",
            "HORNBEAM_SIMT_ASAN": "1",
            "PATH": "/usr/bin:/bin",
            "HOME": str(Path.home()),
        },
        timeout=600,
    )


def test_the_sanitizer_sees_an_overrun_of_global_memory() -> None:
    done = sanitized(
        "import numpy as np, ctypes\n"
        "from tests.cuda import test_simt as t\n"
        "out = np.empty(t.THREADS, dtype=np.float32)\n"
        "simt = t.Emulation(t.build([t.HERE / 'planted.cu'], True))\n"
        "at = ctypes.cast(out.ctypes.data, ctypes.POINTER(ctypes.c_float))\n"
        "for sound in (1, 0):\n"
        "    report = simt.launch('planted_global_overrun', 1, t.THREADS, t.Planted(at, sound))\n"
        "    print('sound', report, flush=True)\n"
    )
    assert done.stdout.count("sound") == 1, done.stderr[-2000:]  # it went on after the sound form only
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert "planted.cu" in done.stderr


def test_the_kernels_pass_the_sanitizer() -> None:
    """One order of threads, every kernel: what the other tests run on, without room beside it."""
    some = "permuted and (dtype1 or 32 or rows or moves or merge and 40) or window or walks and dtype1"
    chosen = f"emulated and ({some})"
    done = sanitized(
        "import pytest, sys\n"
        f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-k', {chosen!r}, 'tests/cuda/test_rows.py',"
        " 'tests/cuda/test_attention.py', 'tests/cuda/test_decide.py', 'tests/cuda/test_mass.py',"
        " 'tests/cuda/test_codes.py', 'tests/cuda/test_held.py', 'tests/cuda/test_merge.py']))\n"
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "passed" in done.stdout
