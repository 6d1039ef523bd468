"""What the tests of beam search over tokens have in common: transformers' side, and how results compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import hornbeam as hb
from tests import models

PROMPT = list(b"where to go?")
ENDS: tuple[list[int] | None, ...] = (None, [7], list(range(3, 256, 9)))
BEAM = hb.recipes.beam(width=5, max_new_tokens=18, early_stopping="never")


def ending() -> hb.LM:
    """A model many of whose tokens end a text."""
    model = models.llama()
    model.generation_config.eos_token_id = ENDS[2]
    return hb.LM(model, models.byte_tokenizer())


def theirs(
    model: Any, prompt: Sequence[int], width: int, count: int, **options: Any
) -> list[tuple[float, Any]]:
    """What ``model.generate`` finds: scores and new tokens, up to the end token."""
    ids = torch.tensor([list(prompt)])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        num_beams=width,
        num_return_sequences=width,
        do_sample=False,
        max_new_tokens=count,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    ends = set(model.generation_config.eos_token_id or ())
    rows = []
    for row in out.sequences[:, len(prompt) :].tolist():
        end = next((at + 1 for at, token in enumerate(row) if token in ends), len(row))
        rows.append(row[:end])
    return list(zip(out.sequences_scores.tolist(), rows, strict=True))


def found(result: hb.search.SearchResult) -> list[tuple[float | None, Any]]:
    return [(path.value, path.token_ids) for path in result.tree.finished]


def check_same(ours: Any, want: Any) -> None:
    assert [tokens for _, tokens in ours] == [tokens for _, tokens in want]
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in want], abs=2e-4, rel=1e-4)


@dataclass
class Fails:
    """A processor that goes wrong in one of its calls."""

    call: int
    error: BaseException
    calls: int = 0

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.call:
            raise self.error
        return scores
