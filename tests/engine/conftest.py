"""A tiny model, and an engine of its own for every test."""

from __future__ import annotations

from typing import Any

import pytest

import hornbeam as hb
from tests import models


@pytest.fixture(scope="module")
def model() -> Any:
    return models.llama()


@pytest.fixture
def engine(model: Any) -> hb.Engine:
    return hb.Engine(model)
