"""What tests of values share: a prompt, recipes, and values that tokens alone decide."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import pytest

import hornbeam as hb
from hornbeam.search import Path, StepEnd, Value

PROMPT = "where to, and by which of the many ways?"
STEP = StepEnd(delimiter=None, max_tokens=5)
RECIPES: dict[str, Any] = {
    "step_beam": hb.recipes.step_beam(width=6, children=3, max_depth=3),
    "rebase": hb.recipes.rebase(width=6, max_depth=3),
    "a_star": hb.recipes.a_star(children=3, max_depth=3),
}


def score(paths: Sequence[Path]) -> list[float]:
    """A number from 0 to 1 that the tokens alone decide."""
    return [zlib.crc32(bytes(path.token_ids)) / 2**32 for path in paths]


class Sees(Value):
    """Needs hidden states, and keeps the paths that it was asked about."""

    needs_hidden = True

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def __call__(self, paths: Sequence[Path]) -> list[float]:
        self.paths += paths
        return score(paths)


def shown(result: Any) -> Any:
    return {node: (path.token_ids, path.value) for node, path in result.tree.paths.items()}


def rows_of(lm: hb.LM, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each forward pass from now on its number of rows."""
    rows: list[int] = []
    forward = lm.engine.forward

    def counted(step: Any, **options: Any) -> Any:
        rows.append(step.num_rows)
        return forward(step, **options)

    monkeypatch.setattr(lm.engine, "forward", counted)
    return rows
