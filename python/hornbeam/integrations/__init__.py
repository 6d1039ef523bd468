"""Adapters to other stacks, each imported when it is first used.

:mod:`~hornbeam.integrations.transformers`, :mod:`~hornbeam.integrations.llguidance` and
:mod:`~hornbeam.integrations.ray` import their stack inside their functions;
:mod:`!hornbeam.integrations.lm_eval` needs its stack and is imported by its name alone, see docs/evaluate.md.
The others have the exact signatures of their stack and import nothing of it: they take tensors and give
tensors.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["flashinfer", "kvpress", "llguidance", "ray", "sglang", "transformers", "vllm"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"hornbeam.integrations.{name}")
    raise AttributeError(f"module 'hornbeam.integrations' has no attribute {name!r}")
