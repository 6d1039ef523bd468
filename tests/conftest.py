"""Fixtures that several test files share, and the random state that every test begins with."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

from tests import browser as browsers

# What was measured on this machine before shall not decide what a test sees. With HORNBEAM_PROFILE=on the
# tests run as users run it; HORNBEAM_CACHE names a folder to learn in.
os.environ.setdefault("HORNBEAM_PROFILE", "off")


class TorchRandom:
    """torch's own generator, as hypothesis seeds it before each example."""

    def seed(self, value: int) -> None:
        torch.manual_seed(value)

    def getstate(self) -> torch.Tensor:
        return torch.get_rng_state()

    def setstate(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)


TORCH_RANDOM = TorchRandom()
hypothesis.register_random(TORCH_RANDOM)


@pytest.fixture(autouse=True)
def own_random_state(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test draws depends on its name alone, not on the tests before it."""
    seed = zlib.crc32(request.node.nodeid.encode())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        yield


@pytest.fixture(scope="session")
def default_model() -> tuple[Any, Any]:
    """The default model in float32 and its tokenizer; converted on a machine's first run."""
    from hornbeam.model import loading

    return loading.load(loading.resolve("smollm2"), dtype=torch.float32)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browsers.Browser]:
    """A browser, where there is one: what only it shows is not tested on other machines."""
    if browsers.found() is None:
        pytest.skip(f"no browser: none of {', '.join(browsers.NAMES)} is installed")
    opened = browsers.Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
