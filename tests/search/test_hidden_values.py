"""Hidden states of paths: the plain model's, read once, and no path changes for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.errors import ArgumentError, BudgetExhausted
from hornbeam.search import Budget, Path, StepEnd
from tests import models
from tests.reference import value as reference
from tests.search.valuing import PROMPT, RECIPES, STEP, Sees, rows_of, score, shown


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama(), models.byte_tokenizer())


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox", "qwen2", "olmo2", "mixtral", "gpt_oss"])
def test_are_what_the_head_of_the_model_takes(name: str) -> None:
    model = models.ARCHITECTURES[name]()
    value = Sees()
    lm = hb.LM(model, models.byte_tokenizer(), page_tokens=4)
    lm.search(PROMPT, recipe=RECIPES["rebase"], value=value, step=STEP, draft=None)
    assert len(value.paths) > 10
    for path in value.paths:
        assert path.hidden is not None
        assert path.hidden.dtype == torch.float32
        want = reference.final_hidden(model, [*path.prompt_ids, *path.token_ids])
        torch.testing.assert_close(path.hidden, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


@pytest.mark.parametrize("recipe", RECIPES)
def test_change_no_path(lm: hb.LM, recipe: str) -> None:
    options: dict[str, Any] = {"recipe": RECIPES[recipe], "step": STEP, "seed": 3}
    plain = lm.search(PROMPT, value=score, draft=None, **options)
    value = Sees()
    seen = lm.search(PROMPT, value=value, draft=None, **options)
    assert shown(seen) == shown(plain)
    assert seen.ledger.tokens == plain.ledger.tokens
    assert shown(lm.search(PROMPT, value=Sees(), draft=hb.spec.Suffix(), **options)) == shown(plain)
    beside = lm.engine.submit("another text", max_new_tokens=400, temperature=1.0, draft=None)
    other = Sees()
    assert shown(lm.search(PROMPT, value=other, draft=None, **options)) == shown(plain)
    assert not beside.done
    beside.cancel()
    for path, twin in zip(value.paths, other.paths, strict=True):
        assert path.hidden is not None
        torch.testing.assert_close(path.hidden, twin.hidden, rtol=1e-4, atol=1e-3)
    assert lm.tree.stats()["branches"] == 0


def test_cost_a_row_of_the_last_children_each(lm: hb.LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others' last rows are those that their children begin with."""
    options: dict[str, Any] = {"recipe": RECIPES["rebase"], "step": STEP, "draft": None}
    lm.clear_cache()
    rows = rows_of(lm, monkeypatch)
    plain = lm.search(PROMPT, value=score, **options)
    read = sum(rows)
    rows.clear()
    lm.clear_cache()
    seen = lm.search(PROMPT, value=Sees(), **options)
    assert shown(seen) == shown(plain)
    assert sum(rows) == read + 6
    assert len(rows) == seen.ledger.forwards == plain.ledger.forwards + 1


def test_with_what_a_checkpoint_says_of_tokens() -> None:
    """Its processors are asked about the first token of a child too."""
    model = models.llama()
    model.generation_config.suppress_tokens = list(range(100, 256))
    model.generation_config.repetition_penalty = 1.7
    lm = hb.LM(model, models.byte_tokenizer())
    options: dict[str, Any] = {"recipe": RECIPES["rebase"], "step": STEP, "draft": None}
    plain = lm.search(PROMPT, value=score, **options)
    assert max(max(path.token_ids, default=0) for path in plain.tree.paths.values()) < 100
    assert shown(lm.search(PROMPT, value=Sees(), **options)) == shown(plain)


@pytest.mark.parametrize("error", [RuntimeError("no end"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [30, 31, 33])
def test_what_fails_at_any_token_leaves_nothing(
    lm: hb.LM, error: BaseException, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last token of the first round, the first one of the second, and one after it."""
    asked = []

    def failing(step: StepEnd, text: str) -> bool:
        asked.append(text)
        if len(asked) == call:
            raise error
        return False

    options: dict[str, Any] = {"recipe": RECIPES["rebase"], "draft": None}
    with monkeypatch.context() as patched:
        patched.setattr(StepEnd, "is_met", failing)
        try:
            result = lm.search(PROMPT, value=Sees(), step=StepEnd("never", 5), **options)
        except (RuntimeError, BudgetExhausted, KeyboardInterrupt):
            assert call == 30
        else:
            assert result.stop == ("error" if isinstance(error, Exception) else "interrupted")
            assert len(result.tree.paths) == 1 + 6
    assert len(asked) >= call
    assert lm.engine.requests == []
    assert lm.tree.stats()["branches"] == 0
    assert lm.search(PROMPT, value=Sees(), step=STEP, **options).stop == "over"


def test_are_only_there_on_request(lm: hb.LM) -> None:
    result = lm.search(PROMPT, recipe=RECIPES["rebase"], value=score, step=STEP, draft=None)
    assert all(path.hidden is None for path in result.tree.paths.values())


def test_are_there_when_a_path_is_looked_at_for_its_end(lm: hb.LM) -> None:
    seen = []

    def ends(path: Path) -> bool:
        seen.append(path.hidden)
        return False

    lm.search(PROMPT, recipe=RECIPES["rebase"], value=Sees(), finish=ends, step=STEP, draft=None)
    assert seen
    assert all(hidden is not None for hidden in seen)


def test_a_path_ends_where_no_position_is_left() -> None:
    """One token earlier than without: the last one is read too."""
    lm = hb.LM(models.llama(), models.byte_tokenizer())
    recipe = hb.recipes.best_of_n(n=2, max_depth=50)
    prompt = models.prompt(500, 2)[0].tolist()
    plain = lm.search(prompt, recipe=recipe, value=score, step=STEP, draft=None)
    assert {len(path.token_ids) for path in plain.tree.finished} == {13}
    value = Sees()
    result = lm.search(prompt, recipe=recipe, value=value, step=STEP, draft=None)
    assert result.error is None
    assert {len(path.token_ids) for path in result.tree.finished} == {12}
    assert all(path.hidden is not None for path in value.paths)
    with pytest.raises(ArgumentError, match="prompt has 512 tokens, expected less than the model's 512"):
        lm.search(models.prompt(512)[0].tolist(), recipe=recipe, value=Sees(), step=STEP)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(RECIPES)),
    tokens=st.none() | st.integers(0, 90),
    forwards=st.none() | st.integers(0, 25),
    kilobytes=st.none() | st.integers(1, 160),
)
def test_no_budget_is_passed(
    lm: hb.LM, name: str, tokens: int | None, forwards: int | None, kilobytes: int | None
) -> None:
    kv_bytes = None if kilobytes is None else 1024 * kilobytes
    budget = Budget(tokens=tokens, forwards=forwards, kv_bytes=kv_bytes)
    options: dict[str, Any] = {"value": Sees(), "step": STEP, "draft": None, "budget": budget}
    try:
        ledger = lm.search(PROMPT, recipe=RECIPES[name], **options).ledger
    except BudgetExhausted:
        pass
    else:
        for kind, limit in (("tokens", tokens), ("forwards", forwards), ("kv_bytes", kv_bytes)):
            assert limit is None or getattr(ledger, kind) <= limit
        assert ledger.kv_bytes_held == 0
    assert lm.tree.stats()["branches"] == 0
    lm.tree.debug_check()


def test_the_model_changes_between_two_rounds() -> None:
    """What a child holds is of the model before: its text is read anew, and so is what its children begin
    with."""

    def change(model: Any) -> None:
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
            model.lm_head.weight.copy_(model.lm_head.weight.flip(0))

    seen, plain = models.llama(), models.llama()

    class Changes(Sees):
        def __call__(self, paths: Sequence[Path]) -> list[float]:
            want = reference.final_hidden(seen, [*paths[-1].prompt_ids, *paths[-1].token_ids])
            assert paths[-1].hidden is not None
            torch.testing.assert_close(paths[-1].hidden, want, rtol=1e-3, atol=1e-2)
            change(seen)
            return super().__call__(paths)

    def changing(paths: Sequence[Path]) -> list[float]:
        change(plain)
        return score(paths)

    results = [
        hb.LM(model, models.byte_tokenizer()).search(
            PROMPT, recipe=RECIPES["rebase"], value=value, step=STEP, draft=None
        )
        for model, value in ((seen, Changes()), (plain, changing))
    ]
    assert [result.error for result in results] == [None, None]
    assert shown(results[0]) == shown(results[1])
