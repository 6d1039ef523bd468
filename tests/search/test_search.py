"""LM.search: the same paths whatever runs beside it, budgets that hold to the unit, and best-so-far
whatever fails."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.engine import searching
from hornbeam.errors import ArgumentError, BudgetExhausted
from hornbeam.search import Budget, Path, StepEnd
from tests import models

PROMPT = "where to?"
STEP = StepEnd(delimiter=None, max_tokens=6)
RECIPES: dict[str, Any] = {
    "best_of_n": hb.recipes.best_of_n(n=4, max_depth=3),
    "step_beam": hb.recipes.step_beam(width=6, children=3, max_depth=3),
    "dvts": hb.recipes.dvts(width=6, children=3, max_depth=3),
    "rebase": hb.recipes.rebase(width=6, max_depth=3),
    "ets": hb.recipes.ets(width=6, max_depth=3),
    "particle_filter": hb.recipes.particle_filter(width=6, max_depth=3),
    "a_star": hb.recipes.a_star(children=3, max_depth=3),
}


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama(), models.byte_tokenizer())


def score(paths: Sequence[Path]) -> list[float]:
    """A number from 0 to 1 that the tokens alone decide."""
    return [zlib.crc32(bytes(path.token_ids)) / 2**32 for path in paths]


def ends(path: Path) -> bool:
    return zlib.crc32(bytes(path.token_ids)) % 5 == 0


def shown(result: Any) -> Any:
    paths = {node: (path.token_ids, path.value, path.is_finished) for node, path in result.tree.paths.items()}
    return paths, result.best.node, [(answer.text, answer.votes) for answer in result.answers]


@pytest.mark.parametrize("name", RECIPES)
def test_paths_do_not_depend_on_drafts_and_neighbours(lm: hb.LM, name: str) -> None:
    options: dict[str, Any] = {"value": score, "finish": ends, "step": STEP, "seed": 7}
    plain = lm.search(PROMPT, recipe=RECIPES[name], draft=None, **options)
    assert plain.stop == "over"
    drafted = lm.search(PROMPT, recipe=RECIPES[name], draft=hb.spec.Suffix(), **options)
    assert shown(drafted) == shown(plain)
    beside = lm.engine.submit("another text", max_new_tokens=500, temperature=1.0, draft=None)
    assert shown(lm.search(PROMPT, recipe=RECIPES[name], draft=None, **options)) == shown(plain)
    beside.cancel()
    lm.clear_cache()
    assert shown(lm.search(PROMPT, recipe=RECIPES[name], draft=None, **options)) == shown(plain)
    other = lm.search(PROMPT, recipe=RECIPES[name], draft=None, **options | {"seed": 8})
    assert shown(other) != shown(plain)
    assert lm.tree.stats()["branches"] == 0


@pytest.mark.parametrize("name", RECIPES)
def test_the_tree_is_the_policys(lm: hb.LM, name: str) -> None:
    """What the driver did is what the policy asks for when it is told the same values."""
    policy = RECIPES[name]
    result = lm.search(PROMPT, recipe=policy, value=score, finish=ends, step=STEP, draft=None)
    alone = policy.open(0)
    while asked := alone.ask():
        for one in asked:
            paths = [result.tree.paths[one.first_child + index] for index in range(one.children)]
            assert all(path.parent.node == one.leaf for path in paths if path.parent is not None)
            sizes = [-(-(len(path.token_ids) - path.step) // lm.tree.page_tokens) for path in paths]
            notes = policy.notes(paths, [size * lm.tree.slab_bytes for size in sizes])
            alone.tell(
                one.trial, [path.value for path in paths], [path.is_finished for path in paths], **notes
            )
    assert alone.is_over
    assert len(result.tree.paths) == 1 + result.ledger.verifier_calls
    assert result.ledger.tokens == sum(
        len(path.token_ids) - len(path.parent.token_ids)
        for path in result.tree.paths.values()
        if path.parent is not None
    )


def test_a_path_is_what_generate_writes(lm: hb.LM) -> None:
    """Greedy: one child a step is plain decoding in pieces, and a step's log-probabilities are the
    model's."""
    recipe = hb.recipes.best_of_n(n=1, temperature=0.0, max_depth=4)
    result = lm.search(PROMPT, recipe=recipe, value=hb.search.Likelihood(), step=STEP, draft=None)
    plain = lm.generate(PROMPT, max_new_tokens=24, draft=None, logprobs=0)
    assert result.best.token_ids == plain.token_ids
    assert result.best.text == plain.text
    want = sum(entry.logprob for entry in plain.logprobs or []) / 24
    assert result.best.value == pytest.approx(want, abs=1e-4)
    assert result.best.depth == 4


def test_steps_end_with_their_delimiter(lm: hb.LM) -> None:
    step = StepEnd(delimiter="a", max_tokens=150)
    result = lm.search(
        PROMPT, recipe=hb.recipes.rebase(width=4, max_depth=3), value=score, step=step, draft=None
    )
    ended = 0
    for path in result.tree.paths.values():
        if path.node and len(path.token_ids) - path.step < 150:
            assert path.step_text.endswith("a")
            assert "a" not in path.step_text.lstrip("a")[:-1]
            ended += 1
    assert ended > 2


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(RECIPES)),
    tokens=st.none() | st.integers(0, 120),
    forwards=st.none() | st.integers(0, 25),
    calls=st.none() | st.integers(0, 14),
    kilobytes=st.none() | st.integers(1, 160),
)
def test_no_budget_is_passed(
    lm: hb.LM, name: str, tokens: int | None, forwards: int | None, calls: int | None, kilobytes: int | None
) -> None:
    budget = Budget(
        tokens=tokens,
        forwards=forwards,
        verifier_calls=calls,
        kv_bytes=None if kilobytes is None else f"{kilobytes}KB",
    )
    valued: list[int] = []

    def value(paths: Sequence[Path]) -> list[float]:
        valued.append(len(paths))
        return score(paths)

    options: dict[str, Any] = {"value": value, "finish": ends, "step": STEP, "draft": None}
    try:
        result = lm.search(PROMPT, recipe=RECIPES[name], budget=budget, **options)
    except BudgetExhausted:
        result = None
    assert lm.tree.stats()["branches"] == 0
    if result is None:
        assert not valued
        with pytest.raises(BudgetExhausted, match="was spent before any path was valued"):
            lm.search(PROMPT, recipe=RECIPES[name], budget=budget, **options)
        return
    ledger = result.ledger
    for kind, limit in (("tokens", tokens), ("forwards", forwards), ("verifier_calls", calls)):
        assert limit is None or getattr(ledger, kind) <= limit
        if result.stop == kind:
            assert limit is not None
    assert budget.kv_bytes is None or ledger.kv_bytes <= budget.kv_bytes  # type: ignore[operator]
    assert ledger.verifier_calls == sum(valued)
    assert ledger.kv_bytes_held == 0
    assert result.best is not None


def test_seconds_end_a_search(lm: hb.LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test's own, which moves by a hundredth each time it is read."""
    reads = iter(range(10**6))
    monkeypatch.setattr(searching, "time", SimpleNamespace(perf_counter=lambda: next(reads) / 100))
    result = lm.search(
        PROMPT,
        recipe=hb.recipes.rebase(width=3, max_depth=1000),
        value=score,
        step=STEP,
        budget=Budget(seconds=0.5),
        draft=None,
    )
    assert result.stop == "seconds"
    assert result.best is not None
    # The forward pass that was under way, and the ends of the round and of the search.
    assert 0.5 <= result.ledger.seconds < 0.54


class Fails:
    """A value that goes wrong in its third call."""

    def __init__(self, how: Any) -> None:
        self.how, self.calls = how, 0

    def __call__(self, paths: Sequence[Path]) -> Any:
        self.calls += 1
        return self.how(paths) if self.calls == 3 else score(paths)


def raise_(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda paths: raise_(RuntimeError("no idea")), "no idea"),
        (lambda paths: [float("nan")] * len(paths), "value gave nan for a path, expected a finite number"),
        (lambda paths: [0.5], "value gave 1 values for 6 paths, expected one number a path"),
        (lambda paths: None, "value gave None for 6 paths"),
        (lambda paths: [True] * len(paths), "value gave True for a path"),
    ],
)
def test_a_value_that_fails_leaves_the_best_so_far(lm: hb.LM, how: Any, message: str) -> None:
    recipe = hb.recipes.rebase(width=6, max_depth=9)
    result = lm.search(PROMPT, recipe=recipe, value=Fails(how), step=STEP, draft=None)
    assert result.stop == "error"
    assert message in str(result.error)
    assert result.best is not None
    assert result.best.value == max(
        path.value for path in result.tree.paths.values() if path.value is not None
    )
    assert lm.tree.stats()["branches"] == 0
    first = Fails(how)
    first.calls = 2
    with pytest.raises(Exception, match=message):
        lm.search(PROMPT, recipe=recipe, value=first, step=STEP, draft=None)


def test_an_interrupt_leaves_the_best_so_far(lm: hb.LM) -> None:
    value = Fails(lambda paths: raise_(KeyboardInterrupt()))
    result = lm.search(
        PROMPT, recipe=hb.recipes.rebase(width=4, max_depth=9), value=value, step=STEP, draft=None
    )
    assert result.stop == "interrupted"
    assert result.best is not None
    assert lm.tree.stats()["branches"] == 0
    assert lm.generate(PROMPT, max_new_tokens=3).token_ids


def test_answers_and_their_votes(lm: hb.LM) -> None:
    def parity(path: Path) -> str | None:
        return f"{sum(path.token_ids) % 2}" if len(path.token_ids) > 6 else None

    options: dict[str, Any] = {"value": score, "finish": parity, "step": STEP, "draft": None}
    recipe = hb.recipes.best_of_n(n=9)
    result = lm.search(PROMPT, recipe=recipe, **options)
    assert sum(answer.votes for answer in result.answers) == 9
    assert {answer.text for answer in result.answers} == {"0", "1"}
    votes = [answer.votes for answer in result.answers]
    assert votes == sorted(votes, reverse=True)
    assert result.best.value == max(path.value for path in result.tree.finished)
    voted = lm.search(PROMPT, recipe=recipe, select=hb.search.select.majority, **options)
    assert voted.best.answer == result.answers[0].text
    weighed = lm.search(PROMPT, recipe=recipe, select=hb.search.select.weighted, **options)
    assert weighed.best.answer == max(result.answers, key=lambda answer: answer.value).text


def test_pruned_paths_give_their_pages_back(lm: hb.LM) -> None:
    """What is held is what the policy may still go on from."""
    held = []

    def value(paths: Sequence[Path]) -> list[float]:
        held.append(lm.tree.stats()["branches"])
        return [1.0 if index == 0 else 0.0 for index, _ in enumerate(paths)]

    recipe = hb.recipes.step_beam(width=4, children=4, max_depth=4)
    result = lm.search(PROMPT, recipe=recipe, value=value, step=STEP, draft=None)
    # The children of a round and the leaf that they go on from.
    assert held[0] == 4
    assert max(held) <= 8
    page = lm.tree.slab_bytes
    assert result.ledger.kv_bytes <= 4 * 3 * page + 4 * page


def test_few_bytes_cost_time_and_no_path(lm: hb.LM) -> None:
    """Below what a search would hold, branches are let go and computed anew: the same paths in fewer bytes
    at a time, which are really free."""
    recipe = hb.recipes.rebase(width=8, balance=5.0, max_depth=5)
    options: dict[str, Any] = {"recipe": recipe, "value": score, "step": STEP, "draft": None}
    lm.clear_cache()
    plain = lm.search(PROMPT, **options)
    page = lm.tree.slab_bytes
    # The deepest path and a child of it: steps of one page, with a copy of the page before.
    for limit in (plain.ledger.kv_bytes // 2, (4 * 2 + 2) * page):
        lm.clear_cache()
        pages = []

        def value(paths: Sequence[Path], pages: list[int] = pages) -> list[float]:
            stats = lm.tree.stats()
            pages.append(stats["slabs"] - stats["free_slabs"])
            return score(paths)

        found = lm.search(PROMPT, **options | {"value": value}, budget=Budget(kv_bytes=limit))
        assert shown(found) == shown(plain)
        assert found.stop == "over"
        assert found.ledger.kv_bytes <= limit < plain.ledger.kv_bytes
        assert found.ledger.forwards > plain.ledger.forwards
        prompt_pages = -(-len(PROMPT.encode()) // lm.tree.page_tokens) + 1
        assert max(pages) <= limit // page + prompt_pages
    tight = lm.search(PROMPT, **options, budget=Budget(kv_bytes=9 * page))
    assert tight.stop == "kv_bytes"
    assert max(path.depth for path in tight.tree.paths.values()) == 4


def test_worth_and_work_decide_what_is_let_go(lm: hb.LM) -> None:
    """Of branches of one length the one of least value goes first."""
    ledger = hb.search.Ledger(Budget())
    memory = searching.SearchMemory(lm.engine, len(PROMPT.encode()), ledger)
    prompt = list(PROMPT.encode())
    requests = [lm.engine.submit(prompt, max_new_tokens=6, draft=None, seed=seed) for seed in range(3)]
    lm.engine.run(requests)
    root = Path(0, None, "", [], [], 0, prompt)
    values = [0.5, 0.1, 0.9]
    paths = {
        node: Path(node, root, "", request.output, [], 0, prompt, value=values[node - 1])
        for node, request in enumerate(requests, start=1)
    }
    memory.hold(paths, requests)
    assert ledger.reserve(kv_bytes=memory.bytes())
    ledger.settle({"kv_bytes": memory.bytes()}, kv_bytes=memory.bytes())
    memory.make_room(memory.bytes() // 3, memory.bytes(), paths, leaves={3})
    assert 2 not in memory
    assert 3 in memory
    memory.close()
    assert len(memory) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "rebase"}, "recipe is 'rebase', expected a policy of hornbeam.search"),
        ({"recipe": hb.recipes.rebase}, "expected a policy of hornbeam.search such as hb.recipes.rebase"),
        ({"value": 3}, "value is 3, expected a callable"),
        ({"finish": "yes"}, "finish is 'yes', expected a callable"),
        ({"step": "\n"}, "step is '\\\\n', expected a hornbeam.search.StepEnd"),
        ({"budget": 100}, "budget is 100, expected a hornbeam.Budget"),
        ({"attend": object()}, "attend is <object .*, expected a recipe"),
        ({"prefill": object()}, "prefill is <object .*, expected a recipe"),
        ({"keep": 3}, "keep is 3"),
        ({"seed": -1}, "seed is -1, expected 0 to"),
        ({"select": "best"}, "select is 'best', expected a callable"),
    ],
)
def test_options_are_checked(lm: hb.LM, options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"recipe": RECIPES["rebase"], "value": score} | options
    with pytest.raises(ArgumentError, match=message):
        lm.search(PROMPT, **given)


def test_delimiters_need_a_tokenizer() -> None:
    lm = hb.LM(models.llama())
    with pytest.raises(ArgumentError, match="step has a delimiter, but this LM has no tokenizer"):
        lm.search([1, 2, 3], recipe=RECIPES["rebase"], value=score)
    result = lm.search([1, 2, 3], recipe=RECIPES["rebase"], value=score, step=STEP, draft=None)
    assert result.best.token_ids
