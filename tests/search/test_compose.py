"""The families together: drafts, keep and search, in batches and over shared prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.search import Budget, Path
from tests import models
from tests.search.test_search import STEP, score

PROMPT = "where to, and by which of the many roads that lead out of the town this morning?"
KEEPS: dict[str, Any] = {
    "snap_kv": hb.recipes.snap_kv("50%", window=4),
    "streaming_llm": hb.recipes.streaming_llm(24, every=8),
    "h2o": hb.recipes.h2o("50%", every=8),
    "int8": hb.recipes.int8(),
}


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama(), models.byte_tokenizer())


def shown(result: Any) -> Any:
    return {node: (path.token_ids, path.value) for node, path in result.tree.paths.items()}


@pytest.mark.parametrize("name", KEEPS)
def test_a_search_that_keeps_little_is_decoding_that_keeps_little(lm: hb.LM, name: str) -> None:
    """One greedy child a step: the text of ``generate`` with the same recipe, reduced at the same places."""
    keep = KEEPS[name]
    lm.clear_cache()
    plain = lm.generate(PROMPT, max_new_tokens=30, draft=None, keep=keep)
    recipe = hb.recipes.best_of_n(n=1, temperature=0.0, max_depth=5)
    lm.clear_cache()
    result = lm.search(PROMPT, recipe=recipe, value=score, step=STEP, draft=None, keep=keep)
    assert result.tree.paths[5].token_ids == plain.token_ids
    assert lm.tree.stats()["branches"] == 0


@pytest.mark.parametrize("name", KEEPS)
def test_searches_that_keep_little_do_not_depend_on_drafts_and_neighbours(lm: hb.LM, name: str) -> None:
    options: dict[str, Any] = {
        "recipe": hb.recipes.rebase(width=5, max_depth=4),
        "value": score,
        "step": STEP,
        "seed": 3,
        "keep": KEEPS[name],
    }
    lm.clear_cache()
    plain = lm.search(PROMPT, draft=None, **options)
    assert plain.stop == "over"
    assert shown(plain) != shown(lm.search(PROMPT, draft=None, **options | {"keep": None}))
    assert shown(lm.search(PROMPT, draft=hb.spec.Suffix(), **options)) == shown(plain)
    beside = lm.engine.submit("another text", max_new_tokens=400, temperature=1.0, draft=None)
    assert shown(lm.search(PROMPT, draft=hb.spec.Suffix(), **options)) == shown(plain)
    beside.cancel()
    assert lm.tree.stats()["branches"] == 0


def test_bytes_limit_the_children_of_a_search_that_keeps_little(lm: hb.LM) -> None:
    """Nothing can be computed anew, so that there are fewer children instead."""
    options: dict[str, Any] = {
        "recipe": hb.recipes.rebase(width=8, max_depth=3),
        "value": score,
        "step": STEP,
        "keep": KEEPS["snap_kv"],
        "draft": None,
    }
    # The text of a child, prompt and all, takes 7 pages at most, while it is written.
    limit = 3 * 7 * lm.tree.slab_bytes
    result = lm.search(PROMPT, budget=Budget(kv_bytes=limit), **options)
    assert result.ledger.kv_bytes <= limit
    assert sum(path.depth == 1 for path in result.tree.paths.values()) == 3


def test_forks_of_finished_requests_keep_their_own_state(lm: hb.LM) -> None:
    """A request that ended holds what it knows of its keys, whoever takes its number."""
    keep = hb.recipes.h2o("50%", every=8)
    options: dict[str, Any] = {"draft": None, "keep": keep, "temperature": 1.0}

    def run(is_crowded: bool) -> list[int]:
        lm.clear_cache()
        first, second = (
            lm.engine.submit(PROMPT, max_new_tokens=count, seed=count, **options) for count in (4, 9)
        )
        while not first.done:
            lm.engine.step()
        if is_crowded:
            lm.engine.run(second.fork(3))
        else:
            lm.engine.run([second])
        first.extend(" and then", max_new_tokens=12)
        lm.engine.run([first])
        found = list(first.output)
        first.release()
        return found

    assert run(True) == run(False)


def test_all_at_once(lm: hb.LM) -> None:
    """Two searches with a draft and a recipe of keep, beside other requests, over one prefix."""
    options: dict[str, Any] = {
        "recipe": hb.recipes.ets(width=5, max_depth=3),
        "value": score,
        "step": STEP,
        "keep": KEEPS["snap_kv"],
    }
    texts = [PROMPT + " To the east.", PROMPT + " To the west."]
    alone = [shown(lm.search(text, draft=None, **options)) for text in texts]
    beside = [
        lm.engine.submit(PROMPT + " Home.", max_new_tokens=300, seed=seed, temperature=0.7, keep="snap_kv")
        for seed in range(2)
    ]
    for text, want in zip(texts, alone, strict=True):
        assert shown(lm.search(text, draft=hb.spec.Suffix(), **options)) == want
    for request in beside:
        request.cancel()


def in_turn(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """A grammar of sorts: even and odd tokens in turn."""
    barred = torch.arange(scores.shape[-1]) % 2 == input_ids[0, -1] % 2
    return scores.masked_fill(barred, float("-inf"))


def test_a_grammar_holds_along_every_path(lm: hb.LM) -> None:
    """The processor is asked about whole texts, drafts among them, whatever step they are of."""
    options: dict[str, Any] = {
        "recipe": hb.recipes.rebase(width=4, max_depth=3),
        "value": score,
        "step": STEP,
        "keep": KEEPS["snap_kv"],
        "logits_processor": in_turn,
    }
    plain = lm.search(PROMPT, draft=None, **options)
    assert shown(lm.search(PROMPT, draft=hb.spec.Suffix(), **options)) == shown(plain)
    for path in plain.tree.paths.values():
        text = [path.prompt_ids[-1], *path.token_ids]
        assert all(a % 2 != b % 2 for a, b in pairwise(text))


def test_searches_in_threads_over_one_prefix_and_one_small_model(lm: hb.LM) -> None:
    """Each gives the paths that it gives alone, with a draft that another model makes."""
    drafter = hb.LM(models.llama(), models.byte_tokenizer())
    recipe = hb.recipes.rebase(width=4, max_depth=3)

    def search(seed: int) -> Any:
        draft = hb.spec.SmallModel(drafter)
        return shown(lm.search(PROMPT, recipe=recipe, value=score, step=STEP, seed=seed, draft=draft))

    alone = [search(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(search, range(3))) == alone
    assert lm.tree.stats()["branches"] == 0
    assert lm.engine.requests == []


def test_weights_that_change_between_rounds_are_read_anew() -> None:
    """What was written by the old weights is read by the new ones before the search goes on."""
    changed = hb.LM(models.llama(), models.byte_tokenizer())

    def value(paths: Sequence[Path]) -> list[float]:
        if paths[0].depth == 1:
            with torch.no_grad():
                changed.model.lm_head.weight.mul_(1.5)
        return score(paths)

    recipe = hb.recipes.best_of_n(n=2, temperature=0.0, max_depth=2)
    result = changed.search(PROMPT, recipe=recipe, value=value, step=STEP, draft=None)
    assert result.stop == "over"
    path = result.tree.paths[3]
    assert path.parent is not None
    prompt = [*path.prompt_ids, *path.parent.token_ids]
    again = changed.generate(prompt, max_new_tokens=6, draft=None)
    assert path.token_ids[path.step :] == again.token_ids
    assert changed.tree.stats()["branches"] == 0
