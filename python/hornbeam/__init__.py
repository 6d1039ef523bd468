"""Adaptive decoding for PyTorch causal language models.

>>> import hornbeam as hb
>>> lm = hb.LM.from_pretrained("smollm2")
>>> print(lm.generate("The capital of France is", max_new_tokens=20).text)

What is named here is imported when it is first used, so that the command line can print its help and refuse
an option without waiting for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hornbeam import (
        attend,
        cuda,
        errors,
        integrations,
        keep,
        ops,
        recipes,
        results,
        search,
        speculation,
    )
    from hornbeam import speculation as spec
    from hornbeam._native import __version__
    from hornbeam.build import build_info
    from hornbeam.cache.tree import PrefixTree
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.processors import EachPrompt
    from hornbeam.lm import LM
    from hornbeam.machine.profile import Profile
    from hornbeam.search.budget import Budget
    from hornbeam.trace import Trace
    from hornbeam.warp import Warp

__all__ = [
    "LM",
    "Budget",
    "EachPrompt",
    "Engine",
    "PrefixTree",
    "Profile",
    "Trace",
    "Warp",
    "__version__",
    "attend",
    "build_info",
    "cuda",
    "errors",
    "integrations",
    "keep",
    "ops",
    "recipes",
    "results",
    "search",
    "spec",
    "speculation",
]

# Names, and the modules below this one that define them.
_DEFINED_IN = {
    "LM": "lm",
    "Budget": "search.budget",
    "EachPrompt": "engine.processors",
    "Engine": "engine.engine",
    "PrefixTree": "cache.tree",
    "Profile": "machine.profile",
    "Trace": "trace",
    "Warp": "warp",
    "__version__": "_native",
    "build_info": "build",
}
# Modules, by the names that they have here.
_MODULES = {name: name for name in __all__ if name not in _DEFINED_IN} | {"spec": "speculation"}


def __getattr__(name: str) -> Any:
    value: Any
    if name in _DEFINED_IN:
        value = getattr(importlib.import_module(f"hornbeam.{_DEFINED_IN[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"hornbeam.{_MODULES[name]}")
    else:
        raise AttributeError(f"module 'hornbeam' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
