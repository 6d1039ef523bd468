"""Fixtures of the tests of kernels: where they run."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch

from hornbeam import cuda
from tests.cuda.emulator import Device, Emulation, choose, emulation


@functools.cache
def why_no_device() -> str:
    """Why the kernels cannot run on this machine's device; empty where they can."""
    reason = str(cuda.status()["reason"])
    return reason or ("" if torch.cuda.is_available() else "torch sees no CUDA device")


@pytest.fixture(scope="module", params=["emulated", pytest.param("device", marks=pytest.mark.device)])
def backend(request: pytest.FixtureRequest) -> Iterator[Emulation | Device]:
    """What the kernels run on: their host emulation, then this machine's device."""
    if request.param == "device" and why_no_device():
        pytest.skip(why_no_device())
    chosen = emulation() if request.param == "emulated" else Device()
    with choose(chosen):
        yield chosen


@pytest.fixture(params=[0, 1, 20261121], ids=["forward", "reverse", "permuted"])
def simt(request: pytest.FixtureRequest, backend: Emulation | Device) -> Emulation | Device:
    """The kernels, their threads in one order after another."""
    backend.seed(request.param)
    return backend
