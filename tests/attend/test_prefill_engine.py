"""LM.generate(prefill=...): a recipe reads prompts alone in its steps, whoever else is under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import hornbeam as hb
from hornbeam.attend import Bounds, Recipe, TopK
from hornbeam.errors import ArgumentError, ShapeError
from tests import models

QUEST = Recipe(Bounds(), TopK(pages=3), dense_layers=0)


@dataclass(frozen=True)
class Band:
    """Each row reads the last ``width`` keys up to its own, and the first."""

    width: int = 10**6
    calls: list[tuple[int, int, int]] = field(default_factory=list, compare=False)

    def attention(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        rows, total = query.shape[1], key.shape[1]
        self.calls.append((layer, rows, total))
        group = query.shape[0] // key.shape[0]
        places = torch.arange(total)
        apart = places[total - rows :, None] - places
        seen = (apart >= 0) & ((apart < self.width) | (places == 0))
        scores = scale * query @ key.repeat_interleave(group, 0).mT
        weights = torch.softmax(scores.masked_fill(~seen, float("-inf")), -1)
        return (weights @ value.repeat_interleave(group, 0)).transpose(0, 1)

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """Rows and keys of each chunk."""
        return [(rows, total) for layer, rows, total in self.calls if layer == 0]


class Dense:
    """Reads everything."""

    def attention(self, *_: Any) -> None:
        return None


def ids(length: int, seed: int = 0) -> list[int]:
    found: list[int] = models.prompt(length, seed)[0].tolist()
    return found


@pytest.fixture(scope="module")
def model() -> Any:
    return models.llama()


@pytest.fixture
def lm(model: Any) -> hb.LM:
    return hb.LM(model, page_tokens=4)


def fresh(lm: hb.LM, prompt: list[int], count: int = 10, **options: Any) -> list[int]:
    """What an LM of its own writes."""
    other = hb.LM(lm.model, page_tokens=4)
    return other.generate(prompt, max_new_tokens=count, draft=None, **options).token_ids


@pytest.mark.parametrize("recipe", [Band(), Dense()], ids=["all", "none"])
@pytest.mark.parametrize("length", [2, 3, 50, 130])
def test_everything_read_is_the_dense_text(lm: hb.LM, recipe: Any, length: int) -> None:
    prompt = ids(length)
    want = lm.generate(prompt, max_new_tokens=10, draft=None).token_ids
    assert lm.generate(prompt, max_new_tokens=10, draft=None, prefill=recipe).token_ids == want


@pytest.mark.parametrize("rows", [8192, 32, 7])
def test_chunks_see_the_keys_before_them(model: Any, rows: int) -> None:
    """All but the last token, in chunks of ``prefill_rows``."""
    lm, band = hb.LM(model, page_tokens=4, prefill_rows=rows), Band(width=9)
    prompt = ids(77)
    out = lm.generate(prompt, max_new_tokens=10, draft=None, prefill=band)
    ends = [*range(rows, 76, rows), 76]
    assert [total for _, total in band.chunks] == ends
    assert sum(count for count, _ in band.chunks) == 76
    # The rows of a band read the same keys, whatever the chunks.
    assert out.token_ids == fresh(lm, prompt, prefill=Band(width=9))
    assert out.token_ids != fresh(lm, prompt)


def test_keys_of_pages_in_another_type_are_read_as_they_lie(model: Any) -> None:
    lm = hb.LM(model, page_tokens=4, kv_dtype=torch.bfloat16, prefill_rows=32)
    prompt = ids(77)
    want = lm.generate(prompt, max_new_tokens=6, draft=None).token_ids
    assert lm.generate(prompt, max_new_tokens=6, draft=None, prefill=Band()).token_ids == want


def test_it_takes_nothing_from_the_cache_and_leaves_nothing(lm: hb.LM) -> None:
    prompt = ids(60)
    plain = lm.generate(prompt, max_new_tokens=10, draft=None).token_ids
    out = lm.generate(prompt, max_new_tokens=10, draft=None, prefill=Band(width=9))
    assert out.stats.reused_tokens == 0
    assert out.token_ids == fresh(lm, prompt, prefill=Band(width=9))
    lm.clear_cache()
    lm.generate(prompt, max_new_tokens=10, draft=None, prefill=Band(width=9))
    again = lm.generate(prompt, max_new_tokens=10, draft=None)
    assert again.stats.reused_tokens == 0
    assert again.token_ids == plain
    lm.tree.debug_check()


def test_samples_of_one_prompt_read_it_once(lm: hb.LM) -> None:
    prompt, band = ids(60), Band(width=9)
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.0, "draft": None}
    outs = lm.generate(prompt, n=4, prefill=band, **options)
    assert band.chunks == [(59, 59)]
    assert [out.stats.reused_tokens for out in outs] == [0, 59, 59, 59]
    alone = hb.LM(lm.model, page_tokens=4).generate(prompt, prefill=Band(width=9), **options)
    assert outs[0].token_ids == alone.token_ids
    assert len({tuple(out.token_ids) for out in outs}) > 1
    assert lm.tree.stats()["branches"] == 0


def test_prompts_that_only_begin_alike_are_read_apart(lm: hb.LM) -> None:
    prompts = [ids(40), [*ids(40), 5, 6]]
    outs = lm.generate(prompts, max_new_tokens=8, draft=None, prefill=Band(width=9))
    assert [out.token_ids for out in outs] == [fresh(lm, p, 8, prefill=Band(width=9)) for p in prompts]
    # An equal one by another recipe.
    engine = lm.engine
    requests = [engine.submit(ids(40), max_new_tokens=8, draft=None, prefill=Band(width)) for width in (9, 5)]
    engine.run(requests)
    assert [r.output for r in requests] == [fresh(lm, ids(40), 8, prefill=Band(width)) for width in (9, 5)]


def test_a_chunk_is_alone_in_its_step_and_others_go_on_in_between(model: Any, monkeypatch: Any) -> None:
    lm = hb.LM(model, page_tokens=4, prefill_rows=16)
    engine, rows = lm.engine, list[tuple[int, bool]]()
    forward = engine.forward

    def counted(step: Any, **options: Any) -> Any:
        rows.append((step.num_rows, options.get("prefill") is not None))
        return forward(step, **options)

    monkeypatch.setattr(engine, "forward", counted)
    beside = engine.submit(ids(9), max_new_tokens=30, draft=None)
    while len(beside.output) < 3:
        engine.step()
    rows.clear()
    band = Band(width=9)
    late = engine.submit(ids(60, seed=1), max_new_tokens=6, draft=None, prefill=band)
    engine.run([beside, late])
    sparse = [count for count, is_sparse in rows if is_sparse]
    assert sparse == [16, 16, 16, 11]
    kinds = [is_sparse for _, is_sparse in rows]
    assert kinds[:7] == [True, False, True, False, True, False, True]
    assert (
        late.output
        == hb.LM(model, page_tokens=4, prefill_rows=16)
        .generate(ids(60, seed=1), max_new_tokens=6, draft=None, prefill=Band(width=9))
        .token_ids
    )
    assert beside.output == fresh(lm, ids(9), 30)


def test_extensions_are_read_over_what_is_there(lm: hb.LM) -> None:
    band = Band(width=9)
    request = lm.engine.submit(ids(30), max_new_tokens=5, draft=None, prefill=band, attend=QUEST)
    request.result()
    request.extend(ids(20, seed=3), max_new_tokens=5)
    request.result()
    # The last token of the answer and all of the new ones but the last.
    assert band.chunks == [(29, 29), (20, 54)]
    assert lm.tree.match([*request.prompt, *request.output]).length == 0
    request.release()


def test_with_keep_and_in_searches(lm: hb.LM) -> None:
    prompt = ids(48)
    keep = hb.recipes.snap_kv("50%", window=4)
    want = lm.generate(prompt, max_new_tokens=8, draft=None, keep=keep).token_ids
    lm.clear_cache()
    assert lm.generate(prompt, max_new_tokens=8, draft=None, keep=keep, prefill=Band()).token_ids == want
    step, band = hb.search.StepEnd(delimiter=None, max_tokens=4), Band(width=9)
    options: dict[str, Any] = {"recipe": hb.recipes.rebase(width=4, max_depth=3), "step": step, "seed": 1}
    result = lm.search(prompt, prefill=band, **options)
    assert band.chunks == [(47, 47)], "the prompt is read once for all paths"
    plain, everything = lm.search(prompt, **options), lm.search(prompt, prefill=Band(), **options)

    def shown(result: Any) -> Any:
        return {node: path.token_ids for node, path in result.tree.paths.items()}

    assert shown(everything) == shown(plain) != shown(result)
    assert lm.tree.stats()["branches"] == 0


def test_what_a_recipe_must_give(lm: hb.LM) -> None:
    class Wrong:
        def attention(self, *_: Any) -> Any:
            return torch.zeros(1, 2, 3)

    with pytest.raises(ShapeError, match=r"Wrong.attention gave \[1, 2, 3\], expected \[29, 6, 32\]"):
        lm.generate(ids(30), prefill=Wrong())
    a, b = lm.tree.branch(), lm.tree.branch()
    step = lm.tree.step([(a, [1, 2], None), (b, [3], None)])
    with step, pytest.raises(ArgumentError, match="prefill reads a step of 2 requests, expected one"):
        lm.engine.forward(step, prefill=Band())
    assert lm.generate(ids(30), max_new_tokens=4, prefill=Dense()).token_ids == fresh(lm, ids(30), 4)
