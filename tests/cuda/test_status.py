"""Without a usable device every failure is a CudaError that names the reason: mock drivers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hornbeam
from hornbeam import _native, cuda, ops
from hornbeam.cuda import device, plans
from hornbeam.errors import ArgumentError, CudaError, ShapeError
from tests.cuda.emulator import compiler, emulation
from tests.cuda.plans import forest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def mocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mocks")


def mock(folder: Path, fault: str) -> str:
    library = folder / f"{fault}.so"
    source = str(HERE / "mock_driver.c")
    command = [compiler(), "-shared", "-fPIC", f"-DFAULT_{fault}", "-x", "c", source, "-o", str(library)]
    subprocess.run(command, check=True)
    return str(library)


def open_lane(path: str) -> _native.CudaLane:
    return _native.CudaLane(path)


has_kernels = not hornbeam.build_info()["cuda"].startswith("no CUDA kernels")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("NO_DEVICE", "no CUDA device: the driver sees none"),
        ("NO_COUNT", "no CUDA device: the driver sees none"),
        ("OLD", r"the CUDA driver supports CUDA 12\.4, the kernels need a driver for CUDA 13\.0"),
        ("SYMBOL", "the CUDA driver lacks cuLaunchKernel"),
        ("INIT", r"cuInit failed: CUDA_ERROR_UNKNOWN \(999\): mock error"),
    ],
)
def test_a_driver_of_no_use_says_why(mocks: Path, fault: str, message: str) -> None:
    with pytest.raises(CudaError, match=message):
        open_lane(mock(mocks, fault))


def test_no_driver_at_all() -> None:
    with pytest.raises(CudaError, match=r"no CUDA driver: /nowhere/libcuda\.so cannot be opened"):
        open_lane("/nowhere/libcuda.so")


@pytest.mark.skipif(not has_kernels, reason="built without CUDA kernels: the lane does not open")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "IMAGE",
            r"cuModuleLoadData of attention failed: CUDA_ERROR_NO_BINARY_FOR_GPU \(209\): no kernel image",
        ),
        ("ARCHITECTURE", r"Mock V100 has compute capability 7\.0, the kernels were built for 8\.0"),
    ],
)
def test_a_device_of_no_use_says_why(mocks: Path, fault: str, message: str) -> None:
    lane = open_lane(mock(mocks, fault))
    assert lane.num_devices == 1
    with pytest.raises(CudaError, match=message):
        lane.prepare(0)
    with pytest.raises(CudaError, match=r"CUDA device 3 does not exist, the driver sees 1"):
        lane.prepare(3)


@pytest.mark.skipif(has_kernels, reason="built with CUDA kernels")
def test_a_build_without_kernels_says_so(mocks: Path) -> None:
    with pytest.raises(CudaError, match=r"built without CUDA kernels: (no nvcc|HORNBEAM_CUDA=off)"):
        open_lane(mock(mocks, "NONE"))


def test_a_launch_that_fails_names_the_kernel() -> None:
    """A grid that no device takes: more kv heads than blocks in a grid's second direction."""
    lane = emulation().lane
    assert lane.is_emulated
    assert lane.device(0)["name"] == "host emulation"
    heads = 70_000
    chunk = torch.zeros(heads, 1, 2, 1, 8)
    row = np.zeros(1, dtype=np.int32)
    one = [np.array([values], dtype=np.int32) for values in ([0, 1 << 16, 0, -1], [0, 1, 0, 1, 1, 1, -1, 0])]
    plan = _native.Plan(one[0], row[:0], one[0][:0, :2], one[1], row, row + 1, np.zeros((1, 2), np.int32))
    packed = _native.CudaPlan(plan, [chunk], heads, heads, 4)
    words = torch.frombuffer(bytearray(packed.words), dtype=torch.int32)
    q = torch.zeros(1, heads, 8)
    rest = (torch.empty(0), (1, 0), 0, 0, heads, None, None, None, None)
    with pytest.raises(CudaError, match=r"launch of hornbeam_attention_plain failed: .* too large a grid"):
        _native.cuda_tree_attention(lane, q, words, chunk, q.clone(), None, *rest)


class OnDevice:
    """What the operations look at before they go to the device."""

    is_cuda = True
    shape = (3, 4, 32)
    dtype = torch.float32
    device = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_operations_on_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_lane", None)
    case = forest(np.random.default_rng(0))
    fake: Any = OnDevice()
    reason = "no CUDA driver|no CUDA device|the CUDA driver|built without CUDA"
    with pytest.raises(CudaError, match=reason):
        ops.write_rows(fake, fake, case.chunks, case.plan, layer=0, num_kv_heads=2)
    with pytest.raises(CudaError, match=reason):
        ops.tree_attention(fake, case.chunks, case.plan, layer=0, num_kv_heads=2)
    with pytest.raises(CudaError, match=reason):
        ops.move_rows([fake], np.zeros((1, 4), np.int32))
    with pytest.raises(CudaError, match=reason):
        ops.sample(fake, hornbeam.Warp(temperature=0.0))
    status = cuda.status()
    assert not status["available"]
    with pytest.raises(CudaError, match=re.escape(status["reason"])):
        cuda.lane()
    assert status["devices"] == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("OLD", "the CUDA driver supports CUDA 12.4, the kernels need a driver for CUDA 13.0"),
        ("NO_DEVICE", "no CUDA device: the driver sees none"),
        ("INIT", "cuInit failed: CUDA_ERROR_UNKNOWN (999): mock error"),
        ("NO_DRIVER", "no CUDA driver: "),
    ],
)
def test_the_command_line_says_why(mocks: Path, fault: str, message: str) -> None:
    """``hornbeam info`` with the driver that the environment names."""
    library = "/nowhere/libcuda.so" if fault == "NO_DRIVER" else mock(mocks, fault)

    def info(*options: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "hornbeam", "info", *options],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "HORNBEAM_LIBCUDA": library, "PYTHONPATH": "python"},
            cwd=HERE.parent.parent,
        )
        return done.stdout

    assert message in info()
    told = json.loads(info("--json"))
    assert message in told["cuda_kernels"]
    assert told["cuda_devices"] == []


def test_the_module_runs_on_the_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """hornbeam.cuda as the operations call it: plans packed once a step, moves checked."""
    monkeypatch.setattr(device, "_lane", emulation().lane)
    plans._plans.clear()
    case = forest(np.random.default_rng(1), head_dim=32)
    rust = [chunk.clone() for chunk in case.chunks]
    k, v = torch.randn(2, case.plan.num_rows, 2, 32)
    q = torch.randn(case.plan.num_rows, 4, 32)
    for layer in range(2):
        cuda.write_rows(k, v, case.chunks, case.plan, layer=layer, num_kv_heads=2)
        out = torch.empty_like(q)
        cuda.tree_attention(q, case.chunks, case.plan, out, layer=layer, num_kv_heads=2)
        ops.write_rows(k, v, rust, case.plan, layer=layer, num_kv_heads=2)
        want = ops.tree_attention(q, rust, case.plan, layer=layer, num_kv_heads=2)
        torch.testing.assert_close(out, want, atol=1e-4, rtol=1e-4)
    assert len(plans._plans) <= 2
    moves = np.array([[0, 1, 0, 0]], dtype=np.int32)
    cuda.move_rows(case.chunks, moves, by_page=False)
    ops.move_rows(rust, moves)
    assert all(torch.equal(a, b) for a, b in zip(case.chunks, rust, strict=True))
    with pytest.raises(ArgumentError, match="a move is outside of the pool"):
        cuda.move_rows(case.chunks, moves + 1000, by_page=False)
    plan = cuda.DevicePlan(case.plan, case.chunks, num_heads=4, num_kv_heads=2)
    buffer = torch.zeros(len(plan.words) + 100, dtype=torch.int32)
    again = cuda.DevicePlan(case.plan, case.chunks, num_heads=4, num_kv_heads=2, buffer=buffer)
    assert torch.equal(again.words[: len(plan.words)], plan.words)
    with pytest.raises(ShapeError, match="buffer is of 3 words"):
        cuda.DevicePlan(case.plan, case.chunks, num_heads=4, num_kv_heads=2, buffer=buffer[:3])
