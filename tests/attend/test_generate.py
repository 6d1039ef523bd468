"""LM.generate(attend=...): which text is written, what is counted, and whose keys are shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.attend import Always, Bounds, Elbow, Mean, Recipe, Threshold, TopK, TopP
from hornbeam.errors import ArgumentError
from hornbeam.speculation import Fixed
from tests import models
from tests.attend.sparse_text import reading, sparse_greedy

PAGE = 4
#: They read everything, each in its own way.
ALL = {
    "topk": Recipe(Bounds(), TopK(pages=10**6), dense_layers=0),
    "share": Recipe(Mean(), TopK(pages="100%"), "union", dense_layers=0),
    "topp": Recipe(Bounds(), TopP(p=1.0, floor=10**6), "layer", dense_layers=0),
    "threshold": Recipe(Bounds(), Threshold(share=1e-3, floor=10**6), dense_layers=0),
    "elbow": Recipe(Mean(), Elbow(floor=10**6), dense_layers=0),
    "window": hb.recipes.window(10**6),
    "quest": hb.recipes.quest(),
    "dense layers": Recipe(Bounds(), TopK(pages=1), dense_layers=99),
}
#: They read little.
FEW = {
    "quest": Recipe(Bounds(), TopK(pages=4), "max", 1),
    "per head": Recipe(Bounds(slack=0.5), TopK(pages=3), "union", 0),
    "layer": Recipe(Mean(), TopK(pages=3, sinks=4, window=5), "layer", 0),
    "share": Recipe(Bounds(), TopK(pages="20%"), "max", 0),
    "twilight": Recipe(Bounds(), TopP(p=0.6, floor=2, cap=5), "union", 0),
    "window": Recipe(Mean(), Always(sinks=2, window=9), "max", 0),
}


def ids(length: int, seed: int = 0) -> list[int]:
    found: list[int] = models.prompt(length, seed)[0].tolist()
    return found


@pytest.fixture(scope="module")
def model() -> Any:
    return models.llama(layers=3)


@pytest.fixture
def lm(model: Any) -> hb.LM:
    return hb.LM(model, page_tokens=PAGE)


@pytest.mark.parametrize("name", ALL)
def test_everything_selected_is_the_dense_text(lm: hb.LM, name: str) -> None:
    prompt = ids(61)
    plain = lm.generate(prompt, max_new_tokens=24, draft=None)
    out = lm.generate(prompt, max_new_tokens=24, draft=None, attend=ALL[name])
    assert out.token_ids == plain.token_ids
    assert out.stats.attend_share == 1.0


@pytest.mark.parametrize("name", FEW)
def test_the_text_is_that_of_transformers_over_the_chosen_pages(model: Any, lm: hb.LM, name: str) -> None:
    for prompt in (ids(60), ids(63, seed=2)):
        want = sparse_greedy(model, prompt, 24, FEW[name], PAGE)
        out = lm.generate(prompt, max_new_tokens=24, draft=None, attend=FEW[name])
        assert out.token_ids == want
        assert 0.0 < out.stats.attend_share < 1.0
    assert want != lm.generate(prompt, max_new_tokens=24, draft=None).token_ids


@pytest.mark.parametrize("name", FEW)
def test_drafts_change_nothing(lm: hb.LM, name: str) -> None:
    """Each row has its own law, drafted or not: also trees, and rows that fill a page in the midst of a
    draft."""
    text = [*ids(11, seed=4)] * 5
    options: dict[str, Any] = {"attend": FEW[name], "max_new_tokens": 40}
    drafted = 0
    for sampling in ({}, {"temperature": 0.9, "seed": 3}):
        plain = lm.generate(text, draft=None, **options, **sampling)
        for draft in (hb.spec.Suffix(), hb.spec.TokenRecycling(size=9, width=2)):
            out = lm.generate(text, draft=draft, length=Fixed(6), **options, **sampling)
            drafted += out.stats.drafted
            assert out.token_ids == plain.token_ids
    assert drafted > 0


def test_requests_of_different_recipes_share_steps(lm: hb.LM) -> None:
    """Dense ones among them: each has the text that it has alone, and the steps are those of one alone."""
    prompts = [ids(40 + 7 * seed, seed) for seed in range(4)]
    recipes: list[Any] = [FEW["quest"], None, FEW["per head"], FEW["window"]]
    alone = [
        lm.generate(prompt, max_new_tokens=20, draft=None, attend=recipe).token_ids
        for prompt, recipe in zip(prompts, recipes, strict=True)
    ]
    engine = hb.LM(lm.model, page_tokens=PAGE).engine
    together = [
        engine.submit(prompt, max_new_tokens=20, draft=None, attend=recipe)
        for prompt, recipe in zip(prompts, recipes, strict=True)
    ]
    engine.run(together)
    assert [request.output for request in together] == alone
    assert max(request.stats.forward_passes for request in together) == 19
    assert together[1].stats.attend_keys == 0
    assert 0.0 < together[0].stats.attend_share < 1.0


def test_samples_share_their_prompt(lm: hb.LM) -> None:
    prompt = ids(50, seed=6)
    options: dict[str, Any] = {
        "attend": FEW["quest"],
        "max_new_tokens": 12,
        "temperature": 1.0,
        "draft": None,
    }
    outs = lm.generate(prompt, n=3, **options)
    again = lm.generate([prompt] * 3, **options)
    assert [out.token_ids for out in outs] == [out.token_ids for out in again]
    # Whole pages: the rest lies as it would lie alone.
    assert [out.stats.reused_tokens for out in outs] == [0, 48, 48]
    assert lm.tree.stats()["branches"] == 0


def test_what_is_counted(model: Any, lm: hb.LM) -> None:
    """The share over the layers, the dense one among them; each key once for the heads that share it."""
    prompt, recipe = ids(64, seed=8), FEW["quest"]
    out = lm.generate(prompt, max_new_tokens=2, draft=None, attend=recipe)
    # One row over 64 keys, 16 pages, of 3 layers with 2 kv heads: a dense one and two that read 4 pages.
    assert out.stats.attend_keys == 3 * 2 * 64
    assert out.stats.attend_keys_read == 2 * 64 + 2 * 2 * 4 * PAGE
    assert out.stats.attend_share == pytest.approx((64 + 32) / 192)


class TestWhoSharesKeys:
    """Keys computed under sparse reads are no exact request's."""

    def test_answers_are_not_matched_and_prompts_are(self, lm: hb.LM) -> None:
        prompt = ids(40, seed=1)
        out = lm.generate(prompt, max_new_tokens=16, draft=None, attend=FEW["quest"])
        text = [*prompt, *out.token_ids, 5, 6, 7]
        again = lm.generate(text, max_new_tokens=8, draft=None)
        assert again.stats.reused_tokens == len(prompt)
        fresh = hb.LM(lm.model, page_tokens=PAGE)
        assert again.token_ids == fresh.generate(text, max_new_tokens=8, draft=None).token_ids
        again = lm.generate(prompt, max_new_tokens=16, draft=None, attend=FEW["quest"])
        assert again.stats.reused_tokens == 36, "whole pages"
        assert again.token_ids == out.token_ids
        lm.tree.debug_check()

    def test_dense_rows_beside_sparse_ones_stay_exact(self, lm: hb.LM) -> None:
        """Exactness is told request by request, not step by step."""
        engine, prompts = lm.engine, [ids(30, seed=2), ids(33, seed=3)]
        requests = [
            engine.submit(prompt, max_new_tokens=12, draft=None, attend=recipe)
            for prompt, recipe in zip(prompts, (FEW["quest"], None), strict=True)
        ]
        engine.run(requests)
        for request in requests:
            request.release()
        lengths = [lm.tree.match([*request.prompt, *request.output]).length for request in requests]
        assert lengths == [30, 33 + 11]

    @pytest.mark.parametrize("draft", [None, hb.spec.Suffix()], ids=str)
    def test_forks_and_extensions(self, lm: hb.LM, draft: Any) -> None:
        prompt = ids(37, seed=5)
        options: dict[str, Any] = {"draft": draft, "attend": FEW["quest"], "max_new_tokens": 14}
        whole = lm.generate(prompt, **options)
        request = lm.engine.submit(prompt, **options)
        while len(request.output) < 5:
            lm.engine.step()
        first, second = request.fork(2)
        first.pause()
        lm.engine.run([second])
        first.resume()
        lm.engine.run([first])
        assert second.output == whole.token_ids, "it has gone on in the pages of the text"
        assert len(first.output) == 14
        first.extend([9, 8, 7], max_new_tokens=6)
        lm.engine.run([first])
        text = [*first.prompt, *first.output]
        assert lm.tree.match(text).length == len(prompt)
        for one in (first, second):
            one.release()
        assert lm.tree.match(text).length == len(prompt)
        lm.tree.debug_check()

    def test_searches(self, lm: hb.LM) -> None:
        prompt = ids(33, seed=7)
        step = hb.search.StepEnd(delimiter=None, max_tokens=5)
        recipe = hb.recipes.rebase(width=4, max_depth=3)
        lm.generate(prompt, max_new_tokens=1, draft=None)  # the cache has the prompt, which stays
        result = lm.search(prompt, recipe=recipe, step=step, attend=FEW["per head"])
        for path in result.tree.paths.values():
            assert lm.tree.match([*prompt, *path.token_ids]).length == len(prompt)
        assert lm.tree.stats()["branches"] == 0

    def test_a_search_that_reads_little_is_decoding_that_reads_little(self, lm: hb.LM) -> None:
        """One greedy child a step: the text of ``generate``, whose last token the next step goes on from."""
        prompt, attend = ids(33, seed=7), FEW["per head"]
        plain = lm.generate(prompt, max_new_tokens=20, draft=None, attend=attend)
        recipe = hb.recipes.best_of_n(n=1, temperature=0.0, max_depth=4)
        step = hb.search.StepEnd(delimiter=None, max_tokens=5)
        result = lm.search(prompt, recipe=recipe, step=step, draft=None, attend=attend)
        assert result.tree.paths[4].token_ids == plain.token_ids

    def test_durable_searches_are_refused(self, lm: hb.LM, tmp_path: Any) -> None:
        """They would read their texts anew, with other keys."""
        step = hb.search.StepEnd(delimiter=None, max_tokens=5)
        recipe = hb.recipes.rebase(width=2, max_depth=2)
        for name, value in (("attend", "quest"), ("prefill", Dense())):
            with pytest.raises(ArgumentError, match=f"{name} is given beside checkpoint or resume"):
                lm.search(ids(9), recipe=recipe, step=step, checkpoint=tmp_path / name, **{name: value})


@pytest.mark.parametrize("name", FEW)
def test_a_text_does_not_depend_on_what_is_cached(lm: hb.LM, name: str) -> None:
    """Which tokens share a page decides what is read. Red where all that is cached is taken up."""
    prompt, options = ids(50, seed=9), {"max_new_tokens": 20, "draft": None, "attend": FEW[name]}
    want = hb.LM(lm.model, page_tokens=PAGE).generate(prompt, **options).token_ids
    # Dense texts end and go on within pages.
    for length in (50, 49, 31, 10):
        lm.generate(prompt[:length], max_new_tokens=3, draft=None)
        assert lm.generate(prompt, **options).token_ids == want
    assert lm.generate(prompt, **options).stats.reused_tokens > 0


class Dense:
    """A recipe of prefill that reads everything."""

    def attention(self, layer: int, query: Any, key: Any, value: Any, scale: float) -> Any:
        return None


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_architectures(name: str) -> None:
    """Layers with windows read what these show; a model that has no others is refused."""
    lm = hb.LM(models.ARCHITECTURES[name](), page_tokens=PAGE)
    attend = Recipe(Bounds(), TopK(pages=10**6), dense_layers=0)
    if not lm.runner.shape.full_layers:
        with pytest.raises(
            ArgumentError, match="attend is given for a model all of whose layers have a window"
        ):
            lm.generate(ids(30), attend=attend)
        return
    plain = lm.generate(ids(45), max_new_tokens=12, draft=None)
    out = lm.generate(ids(45), max_new_tokens=12, draft=None, attend=attend)
    assert out.token_ids == plain.token_ids
    few = lm.generate(ids(45), max_new_tokens=12, draft=None, attend=FEW["per head"])
    assert 0.0 < few.stats.attend_share < 1.0


def test_windowed_layers_are_told_from_full_ones() -> None:
    assert hb.LM(models.gemma3()).runner.shape.full_layers == {2}
    assert hb.LM(models.mistral()).runner.shape.full_layers == set()
    assert hb.LM(models.llama()).runner.shape.full_layers == {0, 1}


def test_a_model_on_a_gpu_is_refused(lm: hb.LM, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    shape = dataclasses.replace(lm.runner.shape, device=torch.device("cuda", 0))
    monkeypatch.setattr(lm.runner, "shape", shape)
    for name, value in (("attend", "quest"), ("prefill", Dense())):
        with pytest.raises(
            ArgumentError, match=f"{name} is given for a model on cuda:0, expected one on the CPU"
        ):
            lm.engine.options_of(**{name: value})


def test_intervals_that_are_none_are_refused(lm: hb.LM) -> None:
    branch, recipe = lm.tree.branch(), FEW["quest"]
    with lm.tree.step([(branch, [1, 2, 3], None)]) as step:
        for rows in ([(0, 4)], [(2, 2)], [(0, 2), (1, 3)]):
            with pytest.raises(ArgumentError, match="expected disjoint intervals of 3 rows"):
                lm.engine.forward(step, attend=[(begin, end, recipe) for begin, end in rows])


def test_the_oracle_reads_what_it_says(model: Any) -> None:
    """Everything selected, it is transformers' own text; few pages are few."""
    prompt, log = ids(30), list[torch.Tensor]()
    want = models.greedy(model, torch.tensor([prompt]), 10)
    assert sparse_greedy(model, prompt, 10, ALL["topk"], PAGE) == want
    with reading(model, FEW["per head"], PAGE, log):
        models.greedy(model, torch.tensor([prompt]), 10)
    assert {int(count) for pages in log for count in pages.sum(1)} == {3}
