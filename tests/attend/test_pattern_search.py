"""The search for the pattern of each head, on a tiny model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import hornbeam as hb
from hornbeam.attend import HeadPattern, MInference, search_patterns
from hornbeam.errors import ArgumentError
from tests import models

LITTLE, MUCH, ALL = HeadPattern("stream", 1, 2), HeadPattern("stream", 8, 60), HeadPattern("stream", 1, 500)
BLOCKS = HeadPattern("block_sparse", 1)


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama())


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(1, 256, (n,), generator=generator).tolist() for n in (150, 90)]


def test_what_covers_most_is_found(lm: hb.LM, texts: list[list[int]]) -> None:
    recipe = MInference(block=16, block_keys=16)
    found = search_patterns(lm, texts, candidates=[LITTLE, MUCH, ALL, BLOCKS], recipe=recipe)
    shape = lm.engine.runner.shape
    assert [len(layer) for layer in found.layers] == [shape.num_heads] * shape.num_layers
    assert {pattern for layer in found.layers for pattern in layer} == {ALL}
    found = search_patterns(lm, texts, candidates=[LITTLE, MUCH, BLOCKS], recipe=recipe)
    assert {pattern for layer in found.layers for pattern in layer} == {MUCH}


def test_of_equals_the_first_is_taken(lm: hb.LM, texts: list[list[int]]) -> None:
    same = HeadPattern("stream", 2, 500)
    found = search_patterns(lm, texts, candidates=[same, ALL, BLOCKS], recipe=MInference(block=16))
    assert {pattern for layer in found.layers for pattern in layer} == {same}


def test_another_thread_goes_on_decoding(lm: hb.LM, texts: list[list[int]]) -> None:
    """Red where a text is read without the engine's lock: a step is open then, or the tree has moved."""
    alone = lm.generate(texts[1], max_new_tokens=200, draft=None, seed=1).token_ids
    candidates = [LITTLE, MUCH, BLOCKS]
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(lm.generate, texts[1], max_new_tokens=200, draft=None, seed=1)
        for _ in range(3):
            found = search_patterns(lm, texts, candidates=candidates, recipe=MInference(block=16))
            assert {pattern for layer in found.layers for pattern in layer} == {MUCH}
        assert beside.result().token_ids == alone


def test_refusals(lm: hb.LM) -> None:
    with pytest.raises(ArgumentError, match="there are 0 texts, expected some"):
        search_patterns(lm, [])
    with pytest.raises(ArgumentError, match="there are 1 texts, expected some, none of them empty"):
        search_patterns(lm, [[]])
    with pytest.raises(ArgumentError, match="there are no candidates"):
        search_patterns(lm, [[1, 2]], candidates=[])
