"""Adaptive decoding for PyTorch causal language models.

>>> import hornbeam as hb
>>> lm = hb.LM.from_pretrained("smollm2")
>>> print(lm.generate("The capital of France is", max_new_tokens=20).text)
"""

from __future__ import annotations

from hornbeam import integrations, keep, ops, recipes, speculation
from hornbeam.build import build_info
from hornbeam.cache.tree import PrefixTree
from hornbeam.engine.engine import Engine
from hornbeam.engine.processors import EachPrompt
from hornbeam.lm import LM
from hornbeam.trace import Trace
from hornbeam.warp import Warp

#: The short name.
spec = speculation

__all__ = [
    "LM",
    "EachPrompt",
    "Engine",
    "PrefixTree",
    "Trace",
    "Warp",
    "build_info",
    "integrations",
    "keep",
    "ops",
    "recipes",
    "spec",
    "speculation",
]
