"""What :class:`hornbeam.LM` shows of its engine."""

from __future__ import annotations

import html
from typing import Any

from hornbeam.engine.engine import Engine

__all__ = ["EngineFace"]


def _of_engine(name: str, doc: str) -> Any:
    """An attribute that is the engine's."""

    def get(lm: EngineFace) -> Any:
        return getattr(lm.engine, name)

    def put(lm: EngineFace, value: Any) -> None:
        setattr(lm.engine, name, value)

    return property(get, put, doc=doc)


class EngineFace:
    """Attributes that are the engine's.

    Attributes:
        engine: what runs the requests of all calls; see :class:`hornbeam.Engine`.
    """

    engine: Engine

    def __repr__(self) -> str:
        return f"<LM {', '.join(f'{value}' for value in self.engine.facts.values())}>"

    def _repr_html_(self) -> str:
        """What it is and what it holds, for notebooks."""
        rows = "".join(
            f"<tr><th style='text-align: left'>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in self.engine.facts.items()
        )
        return f"<table>{rows}</table>"

    runner = _of_engine("runner", "Drives the model.")
    model = _of_engine("model", "The model, out of wrappers such as ``torch.compile``'s and peft's.")
    tokenizer = _of_engine("tokenizer", "Its tokenizer, or None.")
    tree = _of_engine("tree", "The prefix tree of KV pages.")
    graphs = _of_engine("graphs", "The captured steps, or None.")
    cost_curve = _of_engine("cost_curve", "What a forward pass costs by its rows.")
    max_positions = _of_engine("max_positions", "Tokens of the longest text.")
    prefill_rows = _of_engine("prefill_rows", "Rows of a prompt that one forward pass computes at most.")
    dense_rows = _of_engine("dense_rows", "A prompt of so many rows is read in passes of its own.")
    recalled = _of_engine(
        "recalled", "What draft sources remember of earlier texts; see :meth:`clear_cache`."
    )
    union_memories = _of_engine("union_memories", "What unions of drafts have learned, by their settings.")
    freed_bytes = _of_engine("freed_bytes", "Bytes of pages that recipes have let go so far.")
