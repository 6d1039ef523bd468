"""Fixtures of the emulated CUDA tests."""

from __future__ import annotations

import pytest

from tests.cuda.emulator import Device, Emulation, backend


@pytest.fixture(params=[0, 1, 20261121], ids=["forward", "reverse", "permuted"])
def simt(request: pytest.FixtureRequest) -> Emulation | Device:
    """The kernels, their threads in one order after another."""
    found = backend()
    found.seed(request.param)
    return found
