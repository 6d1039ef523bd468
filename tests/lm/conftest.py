"""A tiny model, an LM with small pages, and a spy on what its runs keep."""

from __future__ import annotations

import pytest

import hornbeam as hb
from tests import models
from tests.lm.kept import Spy


@pytest.fixture(scope="module")
def model():
    return models.llama()


@pytest.fixture
def lm(model):
    return hb.LM(model, page_tokens=4)


@pytest.fixture
def spy(monkeypatch):
    return Spy(monkeypatch)
