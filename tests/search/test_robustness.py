"""LM.search whatever its callables do: a clear error or the best so far, an exact ledger, no page leaked."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.engine import searching
from hornbeam.errors import ArgumentError, BudgetExhausted
from hornbeam.search import Budget, Path, Rebase, StepEnd
from tests import models
from tests.search.test_search import PROMPT, STEP, ends, score

TICK, HANG = 0.001, 5.0


class Clock:
    """Moves a little when it is read, and by a hang."""

    def __init__(self) -> None:
        self.now, self.hung = 0.0, 0.0

    def perf_counter(self) -> float:
        self.now += TICK
        return self.now

    def hang(self) -> None:
        self.now += HANG
        self.hung += HANG


class NotOurs(Exception):
    """What a callable raises."""


class Odd:
    """Has no truth."""

    def __bool__(self) -> bool:
        raise NotOurs("no truth")


VALUES: dict[str, Any] = {
    "good": score,
    "array": lambda paths: np.array(score(paths), np.float32),
    "tensor": lambda paths: torch.tensor(score(paths)),
    "nan": lambda paths: [*score(paths)[:-1], float("nan")],
    "infinite": lambda paths: [float("-inf")] * len(paths),
    "huge": lambda paths: [10**400] * len(paths),
    "few": lambda paths: score(paths)[:-1],
    "many": lambda paths: [*score(paths), 0.5],
    "outside": lambda paths: [2.5] * len(paths),
    "nothing": lambda paths: None,
    "text": lambda paths: "0.5",
    "texts": lambda paths: ["0.5"] * len(paths),
    "truths": lambda paths: [True] * len(paths),
    "nested": lambda paths: torch.zeros(len(paths), 1),
    "number": lambda paths: torch.tensor(0.5),
    "iterator": lambda paths: iter(score(paths)),
}
BAD = [name for name in VALUES if name not in ("good", "array", "tensor", "outside")]


class Callables:
    """A value and a finish that do what a list of names says, one a call, and keep count."""

    def __init__(self, clock: Clock, values: Sequence[str], finishes: Sequence[str]) -> None:
        self.clock, self.values, self.finishes = clock, list(values), list(finishes)
        self.valued = self.calls = 0
        self.tokens: dict[int, int] = {}  # of the steps that were written to their end, by node

    def value(self, paths: Sequence[Path]) -> Any:
        self.valued += len(paths)
        self.calls += 1
        how = self.values.pop(0) if self.values else "good"
        if how == "hang":
            self.clock.hang()
        elif how == "raise":
            raise NotOurs("a value")
        elif how == "interrupt":
            raise KeyboardInterrupt
        return VALUES.get(how, score)(paths)

    def finish(self, path: Path) -> Any:
        self.tokens[path.node] = len(path.token_ids) - path.step
        how = self.finishes.pop(0) if self.finishes else "good"
        if how == "raise":
            raise NotOurs("a finish")
        if how == "interrupt":
            raise KeyboardInterrupt
        return {"good": ends(path), "text": "42", "empty": "", "odd": Odd(), "array": np.zeros(2)}[how]


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama(), models.byte_tokenizer())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr(searching, "time", own)
    return own


@st.composite
def recipes(draw: st.DrawFn) -> Any:
    width, depth = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    name = draw(st.sampled_from(("best_of_n", "step_beam", "dvts", "rebase", "particle_filter", "a_star")))
    sizes = {"best_of_n": {"n": width}, "a_star": {"children": width}}.get(name, {"width": width})
    if name in ("step_beam", "dvts"):
        sizes["children"] = draw(st.integers(1, 4))
    return getattr(hb.recipes, name)(**sizes, max_depth=depth)


def check_nothing_is_left(lm: hb.LM) -> None:
    assert lm.engine.requests == []
    assert lm.tree.stats()["branches"] == 0
    lm.tree.debug_check()
    lm.clear_cache()
    stats = lm.tree.stats()
    assert (stats["tokens"], stats["slabs"] - stats["free_slabs"], lm.tree.num_bytes) == (0, 0, 0)


@settings(max_examples=150, deadline=None)
@given(
    recipe=recipes(),
    values=st.lists(st.sampled_from(["good", "good", "hang", "raise", "interrupt", *VALUES]), max_size=5),
    finishes=st.lists(
        st.sampled_from(["good", "good", "good", "text", "empty", "raise", "odd", "array", "interrupt"]),
        max_size=12,
    ),
    limits=st.fixed_dictionaries(
        {},
        optional={
            "tokens": st.integers(0, 120),
            "forwards": st.integers(0, 25),
            "verifier_calls": st.integers(0, 20),
            "kv_bytes": st.integers(1, 20).map(lambda pages: pages * 16384),
            "seconds": st.sampled_from([0.0, 0.01, 1.0, 6.0]),
        },
    ),
    selected=st.sampled_from(["best", "none", "raise", "text"]),
    delimiter=st.sampled_from([None, "\N{REPLACEMENT CHARACTER}"]),
)
def test_whatever_callables_do(
    lm: hb.LM,
    recipe: Any,
    values: list[str],
    finishes: list[str],
    limits: dict[str, Any],
    selected: str,
    delimiter: str | None,
) -> None:
    own = Clock()
    asked = Callables(own, values, finishes)
    selects = {"best": hb.search.select.best, "none": lambda found: None, "text": lambda found: "a path"}
    step = StepEnd(delimiter=delimiter, max_tokens=6)
    budget = Budget(**limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "time", own)
        try:
            result = lm.search(
                PROMPT,
                recipe=recipe,
                value=asked.value,
                finish=asked.finish,
                step=step,
                budget=budget,
                draft=None,
                select=selects.get(selected, lambda found: 1 / 0),
            )
        except (BudgetExhausted, ArgumentError, NotOurs, ValueError, KeyboardInterrupt) as raised:
            check_nothing_is_left(lm)
            # Before any path was valued: what the callable of the first round raised, or the budget.
            assert asked.calls <= 1
            if isinstance(raised, BudgetExhausted):
                assert asked.calls == 0
                assert limits
            return
    check_nothing_is_left(lm)
    ledger, paths = result.ledger, [path for path in result.tree.paths.values() if path.parent is not None]
    # The ledger is that of the paths, and of the round that did not come to its end.
    in_tree = sum(len(path.token_ids) - path.step for path in paths)
    whole = sum(asked.tokens.values())
    assert in_tree <= whole <= ledger.tokens
    if result.stop in ("over", "tokens", "verifier_calls", "kv_bytes"):
        assert ledger.tokens == in_tree
    assert ledger.verifier_calls == asked.valued
    assert asked.valued - len(paths) >= 0
    for kind in ("tokens", "forwards", "verifier_calls", "kv_bytes"):
        assert getattr(ledger, kind) <= limits.get(kind, float("inf"))
    assert ledger.kv_bytes_held == 0
    assert ledger._native.reserved(0) == [0] * 5
    # Time is all of it, and passes its limit by what was under way alone.
    assert ledger.seconds == pytest.approx(own.now - TICK, abs=1e-6)
    if "seconds" in limits:
        assert ledger.seconds <= limits["seconds"] + HANG + 8 * TICK
    # The best of what there is.
    assert all(path.value is not None and np.isfinite(path.value) for path in paths)
    if result.error is not None:
        assert result.stop in ("error", "interrupted")
        assert str(result.error) or result.stop == "interrupted"
    if selected == "best" or not result.tree.finished:
        among = result.tree.finished or paths
        assert result.best is not None
        assert result.best.value == max(path.value for path in among)  # type: ignore[type-var]
    elif selected in ("raise", "text"):
        assert result.stop in ("error", "interrupted")


@pytest.mark.parametrize("how", BAD)
def test_a_bad_value_is_named(lm: hb.LM, clock: Clock, how: str) -> None:
    with pytest.raises(ArgumentError, match=r"^value gave .*, expected (one number a path|a finite number)"):
        lm.search(PROMPT, recipe=Rebase(width=3), value=VALUES[how], step=STEP, draft=None)
    check_nothing_is_left(lm)


def test_a_failing_select_leaves_the_best_so_far(lm: hb.LM) -> None:
    options: dict[str, Any] = {"recipe": hb.recipes.rebase(width=6, max_depth=3), "value": score}
    options |= {"finish": ends, "step": STEP, "draft": None}
    plain = lm.search(PROMPT, **options)
    assert plain.tree.finished
    failed = lm.search(PROMPT, select=lambda paths: 1 / 0, **options)
    assert isinstance(failed.error, ZeroDivisionError)
    assert (failed.stop, failed.best.node) == ("error", plain.best.node)
    wrong = lm.search(PROMPT, select=lambda paths: "the first", **options)
    assert "select gave 'the first', expected a path or None" in str(wrong.error)
    assert wrong.best.node == plain.best.node
    assert lm.search(PROMPT, select=lambda paths: None, **options).best is None


def test_tokens_that_a_step_did_not_need_are_given_back(lm: hb.LM) -> None:
    step = StepEnd(delimiter="\N{REPLACEMENT CHARACTER}", max_tokens=6)
    recipe = hb.recipes.rebase(width=6, max_depth=3)
    result = lm.search(PROMPT, recipe=recipe, value=score, step=step, draft=None)
    lengths = [len(path.token_ids) - path.step for path in result.tree.paths.values() if path.node]
    assert min(lengths) < max(lengths) == 6
    assert result.ledger.tokens == sum(lengths)


def test_pages_of_a_round_that_is_cut_count(lm: hb.LM) -> None:
    """A round that ends within its value or its last forward pass has held its pages."""
    recipe = hb.recipes.best_of_n(n=4, max_depth=3)
    whole = lm.search(PROMPT, recipe=recipe, value=score, step=STEP, draft=None, budget=Budget(tokens=24))
    calls: list[int] = []

    def value(paths: Sequence[Path]) -> list[float]:
        calls.append(1)
        if len(calls) == 2:
            raise NotOurs("a value")
        return score(paths)

    cut = lm.search(PROMPT, recipe=recipe, value=value, step=STEP, draft=None)
    # The page that the prompt ends on is its own, whoever writes on a copy of it.
    assert whole.ledger.kv_bytes in (3 * lm.tree.slab_bytes, 4 * lm.tree.slab_bytes)
    # The steps of the second round have rows on two pages each.
    assert cut.ledger.kv_bytes == (4 + 8) * lm.tree.slab_bytes
    assert (cut.ledger.tokens, cut.ledger.verifier_calls) == (48, 8)


def test_a_budget_of_bytes_gives_one_search_whatever_was_cached(lm: hb.LM) -> None:
    options: dict[str, Any] = {"value": score, "finish": ends, "step": STEP, "draft": None}
    lm.clear_cache()
    for pages in (6, 9, 14, 20):
        budget = Budget(kv_bytes=pages * lm.tree.slab_bytes)
        recipe = hb.recipes.rebase(width=9, max_depth=4)
        first, second = (lm.search(PROMPT, recipe=recipe, budget=budget, **options) for _ in range(2))
        assert first.tree.paths.keys() == second.tree.paths.keys()
        for result in (first, second):
            assert result.ledger.kv_bytes <= pages * lm.tree.slab_bytes


@settings(max_examples=40, deadline=None)
@given(recipe=recipes(), num_prompt=st.integers(1, 40), max_tokens=st.integers(1, 20), seed=st.integers(0, 9))
def test_no_more_pages_are_held_than_are_counted(
    lm: hb.LM, recipe: Any, num_prompt: int, max_tokens: int, seed: int
) -> None:
    lm.clear_cache()
    held: list[int] = []
    prompt_pages = -(-num_prompt // lm.tree.page_tokens)

    def value(paths: Sequence[Path]) -> list[float]:
        stats = lm.tree.stats()
        held.append(stats["slabs"] - stats["free_slabs"] - stats["cached_slabs"])
        return score(paths)

    options: dict[str, Any] = {"value": value, "finish": ends, "draft": None, "seed": seed}
    step = StepEnd(delimiter=None, max_tokens=max_tokens)
    result = lm.search([7] * num_prompt, recipe=recipe, step=step, **options)
    assert (max(held) - prompt_pages) * lm.tree.slab_bytes <= result.ledger.kv_bytes


def test_the_clock_of_these_tests_is_the_searchs(lm: hb.LM, clock: Clock) -> None:
    assert SimpleNamespace(perf_counter=clock.perf_counter).perf_counter() == TICK
    result = lm.search(
        PROMPT,
        recipe=hb.recipes.best_of_n(n=2, max_depth=50),
        value=Callables(clock, ["good", "hang"], []).value,
        step=STEP,
        draft=None,
        budget=Budget(seconds=2),
    )
    assert (result.stop, len(result.tree.paths)) == ("seconds", 5)
    assert HANG < result.ledger.seconds < HANG + 1
