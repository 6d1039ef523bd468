"""Policies of somebody else's that go wrong, and observers that do: the best so far, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

import hornbeam as hb
from hornbeam.engine import searching
from hornbeam.search import Budget, Rebase, Search
from hornbeam.search.policy.base import Expansion
from tests import models
from tests.search.test_robustness import HANG, Clock, NotOurs, check_nothing_is_left
from tests.search.test_search import PROMPT, STEP, score


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama(), models.byte_tokenizer())


@dataclass(frozen=True)
class Wrong(Rebase):
    """A policy of somebody else's that goes wrong from its second round on."""

    how: str = ""

    def open(self, seed: int) -> Search:
        return WrongSearch(super().open(seed), self.how)


class WrongSearch(Search):
    def __init__(self, inner: Search, how: str) -> None:
        self.inner, self.how, self.rounds = inner, how, 0

    def ask(self, most: int | None = None) -> list[Expansion]:
        self.rounds += 1
        asked = self.inner.ask(most)
        if self.rounds == 1:
            return asked
        if self.how == "raise":
            raise NotOurs("a policy")
        return {
            "nothing": [],
            "no node": [asked[0]._replace(leaf=99)],
            "too many": [asked[0]._replace(children=1000)],
        }[self.how]

    def tell(self, trial: int, values: Sequence[float], finished: Sequence[bool]) -> None:
        self.inner.tell(trial, values, finished)

    def live(self) -> list[bool]:
        return self.inner.live()

    @property
    def is_over(self) -> bool:
        return self.inner.is_over


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "a policy"),
        ("nothing", "the policy asked for nothing, expected an expansion or the end of it"),
        ("no node", "the policy goes on from node 99, expected one that is live"),
        ("too many", "the policy asked for 1000 children, expected at most"),
    ],
)
def test_a_policy_that_goes_wrong(lm: hb.LM, how: str, message: str) -> None:
    recipe = Wrong(width=4, max_depth=3, how=how)
    budget = Budget(tokens=300)
    result = lm.search(PROMPT, recipe=recipe, value=score, step=STEP, draft=None, budget=budget)
    assert result.stop == "error"
    assert message in str(result.error)
    assert len(result.tree.paths) == 5
    assert result.ledger._native.reserved(0) == [0] * 5
    check_nothing_is_left(lm)


def alone(lm: hb.LM, depth: int) -> searching.Searching:
    """Two paths of so many steps."""
    recipe = hb.recipes.best_of_n(n=2, max_depth=depth)
    return searching.Searching(lm.engine, [1, 2, 3], recipe, score, None, STEP, Budget(), 0, None, None, max)


def test_observers_see_each_round_and_the_end(lm: hb.LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their time is the search's, and where one fails the search ends with what there is."""
    made = alone(lm, 3)
    seen: list[int] = []
    made.observe(lambda: seen.append(len(made.tree.paths)))
    made.run()
    assert seen == [3, 5, 7, 7]
    slow = alone(lm, 2)
    clock = Clock()
    monkeypatch.setattr(searching, "time", clock)
    slow.observe(clock.hang)
    assert 2 * HANG < slow.run().ledger.seconds < 3 * HANG
    failing = alone(lm, 3)
    failing.observe(lambda: (_ for _ in ()).throw(NotOurs("an observer")))
    result = failing.run()
    assert (result.stop, str(result.error)) == ("error", "an observer")
    assert len(result.tree.paths) == 3
    check_nothing_is_left(lm)
