"""Sparse decoding with every other family: drafts, keep, batches, grammars, forks and search."""

from __future__ import annotations

import itertools
from itertools import pairwise
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.attend import Bounds, Mean, Recipe, TopK, TopP
from hornbeam.speculation import Fixed
from tests import models
from tests.search.test_compose import in_turn
from tests.search.valuing import score

PROMPT = "where to, and by which of the many roads that lead out of the town this morning?"
STEP = hb.search.StepEnd(delimiter=None, max_tokens=6)
ALL = Recipe(Bounds(), TopK(pages=10**6), dense_layers=0)
FEW = Recipe(Bounds(), TopK(pages=4), "max", 1)
OTHER = Recipe(Mean(), TopP(p=0.5, cap=3), "union", 0)
KEEPS: dict[str, Any] = {
    "none": None,
    "snap_kv": hb.recipes.snap_kv("50%", window=4),
    "streaming_llm": hb.recipes.streaming_llm(24, every=8),
    "ada_kv": hb.recipes.ada_kv("40%", window=4),
    "int8": hb.recipes.int8(),
}
DRAFTS: dict[str, Any] = {
    "none": None,
    "suffix": hb.spec.Suffix(),
    "recycling": hb.spec.TokenRecycling(size=9, width=2),
    "layer_skip": hb.spec.LayerSkip(exit_layer=1, shape=hb.spec.shape.GumbelTree((2, 1))),
    "sparse_self": hb.spec.SparseSelf(OTHER),
}


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama(layers=3), models.byte_tokenizer(), page_tokens=4)


def shown(result: Any) -> Any:
    return {node: (path.token_ids, path.value) for node, path in result.tree.paths.items()}


@pytest.mark.parametrize(("keep", "draft"), itertools.product(KEEPS, DRAFTS))
def test_everything_selected_is_the_text_without(lm: hb.LM, keep: str, draft: str) -> None:
    options: dict[str, Any] = {"keep": KEEPS[keep], "max_new_tokens": 20, "temperature": 0.8, "seed": 2}
    want = lm.generate(PROMPT, draft=None, **options).token_ids
    out = lm.generate(PROMPT, draft=DRAFTS[draft], length=Fixed(5), attend=ALL, **options)
    assert out.token_ids == want


@pytest.mark.parametrize(("keep", "draft"), itertools.product(KEEPS, DRAFTS))
def test_few_pages_are_the_same_with_and_without_drafts(lm: hb.LM, keep: str, draft: str) -> None:
    """Over evicted keys, pages of single heads and pages in codes as well."""
    options: dict[str, Any] = {"keep": KEEPS[keep], "max_new_tokens": 24, "attend": FEW}
    plain = lm.generate(PROMPT, draft=None, **options)
    out = lm.generate(PROMPT, draft=DRAFTS[draft], length=Fixed(5), **options)
    assert out.token_ids == plain.token_ids
    assert 0.0 < plain.stats.attend_share < 1.0


def test_batches_over_a_shared_prefix(lm: hb.LM) -> None:
    """Each as it is alone, with drafts and a recipe of keep among them."""
    ends = [" To the east.", " To the west.", " Home.", ""]
    each: list[dict[str, Any]] = [
        {"attend": FEW},
        {"attend": OTHER, "draft": hb.spec.Suffix(), "length": Fixed(4)},
        {"attend": FEW, "keep": KEEPS["snap_kv"]},
        {},
    ]
    options = [{"max_new_tokens": 18, "draft": None, "temperature": 0.7, "seed": 4, **own} for own in each]
    alone = [lm.generate(PROMPT + end, **own).token_ids for end, own in zip(ends, options, strict=True)]
    lm.clear_cache()
    together = [lm.engine.submit(PROMPT + end, **own) for end, own in zip(ends, options, strict=True)]
    lm.engine.run(together)
    assert [request.output for request in together] == alone
    for request in together:
        request.release()
    assert lm.tree.stats()["branches"] == 0


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_grammar_holds(lm: hb.LM, draft: str) -> None:
    options: dict[str, Any] = {"logits_processor": in_turn, "max_new_tokens": 20, "attend": FEW}
    plain = lm.generate(PROMPT, draft=None, **options).token_ids
    assert lm.generate(PROMPT, draft=DRAFTS[draft], length=Fixed(4), **options).token_ids == plain
    assert all(a % 2 != b % 2 for a, b in pairwise(plain))


def test_traces_and_logprobs(lm: hb.LM) -> None:
    trace = hb.Trace()
    out = lm.generate(PROMPT, max_new_tokens=12, attend=FEW, draft=hb.spec.Suffix(), trace=trace, logprobs=2)
    plain = lm.generate(PROMPT, max_new_tokens=12, attend=FEW, draft=None, logprobs=2)
    assert out.token_ids == plain.token_ids
    assert out.logprobs is not None
    assert plain.logprobs is not None
    found, want = ([entry.logprob for entry in one.logprobs or []] for one in (out, plain))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(want), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("keep", ["none", "snap_kv", "int8"])
def test_searches_do_not_depend_on_drafts_and_neighbours(lm: hb.LM, keep: str) -> None:
    options: dict[str, Any] = {
        "recipe": hb.recipes.rebase(width=5, max_depth=4),
        "value": score,
        "step": STEP,
        "seed": 3,
        "keep": KEEPS[keep],
        "attend": FEW,
    }
    lm.clear_cache()
    plain = lm.search(PROMPT, draft=None, **options)
    assert plain.stop == "over"
    dense = lm.search(PROMPT, draft=None, **options | {"attend": None})
    assert shown(plain) != shown(dense) == shown(lm.search(PROMPT, draft=None, **options | {"attend": ALL}))
    assert shown(lm.search(PROMPT, draft=hb.spec.Suffix(), **options)) == shown(plain)
    beside = lm.engine.submit("another text", max_new_tokens=300, temperature=1.0, draft=None, attend=OTHER)
    assert shown(lm.search(PROMPT, draft=hb.spec.Suffix(), **options)) == shown(plain)
    beside.cancel()
    assert lm.tree.stats()["branches"] == 0


def test_beams(lm: hb.LM) -> None:
    recipe = hb.recipes.beam(width=4, max_new_tokens=12)

    def found(**options: Any) -> Any:
        return [(path.token_ids) for path in lm.search(PROMPT, recipe=recipe, **options).tree.finished]

    assert found(attend=ALL) == found() != found(attend=OTHER)
    assert lm.tree.stats()["branches"] == 0


def test_paused_beside_others(lm: hb.LM) -> None:
    want = lm.generate(PROMPT, max_new_tokens=16, draft=None, attend=FEW).token_ids
    request = lm.engine.submit(PROMPT, max_new_tokens=16, draft=None, attend=FEW)
    while len(request.output) < 4:
        lm.engine.step()
    request.pause()
    other = lm.engine.submit(PROMPT + " Home.", max_new_tokens=20, draft=None, attend=OTHER)
    other.result()
    request.resume()
    assert request.result().token_ids == want
    for one in (request, other):
        one.release()


def test_memory_that_is_short_puts_off_no_sparse_text(lm: hb.LM) -> None:
    """It cannot be read anew with the same keys: others wait for it, or it fails as one with keep= does."""
    small = hb.LM(lm.model, models.byte_tokenizer(), page_tokens=4, max_kv_bytes=40 * lm.tree.slab_bytes)
    want = [lm.generate(PROMPT, max_new_tokens=40, draft=None, attend=FEW).token_ids]
    first = small.engine.submit(PROMPT, max_new_tokens=40, draft=None, attend=FEW)
    while len(first.output) < 3:
        small.engine.step()
    second = small.engine.submit(PROMPT[::-1], max_new_tokens=40, draft=None, attend=FEW)
    small.engine.run([first, second])
    assert [first.output] == want
    assert second.error is None or isinstance(second.error, hb.errors.OutOfPages)
