"""The target over a part of its keys as a draft: the same text, and pages that stay as they were."""

from __future__ import annotations

from typing import Any

import pytest

import hornbeam as hb
from hornbeam.attend import Always, Bounds, Mean, Recipe, TopK
from hornbeam.errors import ArgumentError
from hornbeam.speculation import Fixed, MeasuredGain, SparseSelf, shape
from tests import models

SAMPLING: dict[str, Any] = {"temperature": 1.1, "top_k": 30, "top_p": 0.97}
FEW = Recipe(Bounds(), TopK(pages=4), dense_layers=0)
DRAFTS = [
    SparseSelf(FEW),
    SparseSelf(FEW, shape=shape.GumbelTree((3, 2))),
    SparseSelf(Recipe(Mean(), Always(sinks=4, window=8), dense_layers=0), shape=shape.BestFirst(6, 3, 3)),
    SparseSelf(FEW, shape=shape.StochasticBeam(3, 3)),
]


def ids(length: int, seed: int = 0) -> list[int]:
    found: list[int] = models.prompt(length, seed)[0].tolist()
    return found


PROMPTS = [ids(9 + 17 * i, seed=i) for i in range(5)]


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama(), page_tokens=4)


@pytest.mark.parametrize("draft", DRAFTS, ids=range(len(DRAFTS)))
@pytest.mark.parametrize("options", [{}, SAMPLING], ids=["greedy", "sampled"])
def test_text_alone_and_in_a_batch(lm: hb.LM, draft: SparseSelf, options: dict[str, Any]) -> None:
    plain = lm.generate(PROMPTS, max_new_tokens=14, seed=5, draft=None, **options)
    for prompts, expected in ((PROMPTS, plain), (PROMPTS[3:4], plain[3:4])):
        for length in (Fixed(40), MeasuredGain()):
            out = lm.generate(prompts, max_new_tokens=14, seed=5, draft=draft, length=length, **options)
            assert [o.token_ids for o in out] == [o.token_ids for o in expected]
            lm.tree.debug_check()
    assert lm.tree.stats()["branches"] == 0


def test_a_draft_over_all_keys_is_always_right(lm: hb.LM) -> None:
    draft = SparseSelf(hb.recipes.window(10**6))
    out = lm.generate(ids(40), max_new_tokens=41, draft=draft, length=Fixed(3))
    assert out.stats.accepted == out.stats.drafted == 30
    assert out.stats.forward_passes == 10
    assert out.stats.attend_keys == 0, "the text itself is read in full"


def test_the_text_stays_exact_and_goes_on_in_its_pages(lm: hb.LM) -> None:
    """What the draft has computed is no part of the text: its pages are those of plain decoding."""
    prompt = ids(30, seed=2)
    held = []
    for draft in (None, DRAFTS[0]):
        request = lm.engine.submit(prompt, max_new_tokens=20, draft=draft, length=Fixed(3))
        request.result()
        held.append(request.branch.stats() | {"nodes": 0})
        assert lm.tree.match([*request.prompt, *request.output]).length == 30 + 19
        request.release()
        lm.clear_cache()
    assert held[0] == held[1]


def test_with_a_sparse_text_forks_and_prompts_beside(lm: hb.LM) -> None:
    prompt = ids(44, seed=3)
    attend = Recipe(Bounds(), TopK(pages=6), dense_layers=1)
    plain = lm.generate(prompt, max_new_tokens=16, draft=None, attend=attend)
    out = lm.generate(prompt, max_new_tokens=16, draft=DRAFTS[0], length=Fixed(3), attend=attend)
    assert out.token_ids == plain.token_ids
    dense = lm.generate(prompt, max_new_tokens=16, draft=None).token_ids
    request = lm.engine.submit(prompt, max_new_tokens=16, draft=DRAFTS[0], length=Fixed(3))
    while len(request.output) < 3:
        lm.engine.step()
    children = request.fork(2)
    late = lm.engine.submit(ids(50, seed=9), max_new_tokens=4, draft=None)
    lm.engine.run([*children, late])
    assert children[0].output == children[1].output == dense
    for child in children:
        child.release()


@pytest.mark.parametrize("verify", ["without_replacement", "target_only"])
def test_other_rules(lm: hb.LM, verify: str) -> None:
    for length in (MeasuredGain(), Fixed(9)):
        options: dict[str, Any] = {"draft": DRAFTS[1], "length": length, "verify": verify, **SAMPLING}
        assert len(lm.generate(ids(20), max_new_tokens=20, **options).token_ids) == 20


def test_an_exception_leaves_the_tree_as_it_was() -> None:
    lm = hb.LM(models.llama(), page_tokens=4)
    plain = lm.generate(ids(20), max_new_tokens=8, draft=None).token_ids
    layer, calls = lm.model.model.layers[0], [0]

    def fail(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == 4:
            raise ZeroDivisionError

    handle = layer.self_attn.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        lm.generate(ids(20), max_new_tokens=8, draft=DRAFTS[1], length=Fixed(40))
    handle.remove()
    lm.tree.debug_check()
    assert lm.tree.stats()["branches"] == 0
    assert lm.generate(ids(20), max_new_tokens=8, draft=None).token_ids == plain


def test_what_is_refused(lm: hb.LM) -> None:
    for attend in ("quest", hb.recipes.quest, None, hb.recipes.snap_kv()):
        with pytest.raises(ArgumentError, match=r"attend is .*, expected a recipe such as hb.recipes.quest"):
            SparseSelf(attend)
    windowed = hb.LM(models.mistral())
    with pytest.raises(
        ArgumentError, match="SparseSelf drafts for a model all of whose layers have a window"
    ):
        windowed.generate(ids(20), draft=DRAFTS[0])
