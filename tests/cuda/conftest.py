"""Fixtures of the emulated CUDA tests."""

from __future__ import annotations

import pytest

from tests.cuda.emulator import Emulation, emulation


@pytest.fixture(params=[0, 1, 20261121], ids=["forward", "reverse", "permuted"])
def simt(request: pytest.FixtureRequest) -> Emulation:
    """The emulation, its threads in one order after another."""
    found = emulation()
    found.seed(request.param)
    return found
