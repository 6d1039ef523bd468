"""Adapters to other stacks. Each is imported when it is first used, and imports its stack then."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["transformers"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"hornbeam.integrations.{name}")
    raise AttributeError(f"module 'hornbeam.integrations' has no attribute {name!r}")
