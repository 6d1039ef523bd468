"""Searches on disk: whatever ends the process, what is gone on with ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.errors import ArgumentError, BudgetExhausted
from hornbeam.search import Budget, Path, Rebase, Search
from hornbeam.search.policy.base import Expansion
from tests import models
from tests.search.test_search import PROMPT, RECIPES, STEP, ends, score, shown

ROOT = File(__file__).parent.parent.parent
COSTS = ("tokens", "verifier_calls")


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama(), models.byte_tokenizer())


def options(name: str, **more: Any) -> dict[str, Any]:
    return {"recipe": RECIPES[name], "value": score, "finish": ends, "step": STEP, "draft": None} | more


class Killed(BaseException):
    """Ends a search between two rounds or within a value, as a signal does: nothing is cleaned up for it."""


def stop_at(call: int) -> Callable[[Sequence[Path]], list[float]]:
    """The value, which ends the process at a call."""
    calls = 0

    def value(paths: Sequence[Path]) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return score(paths)

    return value


def begun(lm: hb.LM, folder: File, call: int, **more: Any) -> None:
    """A search that ends within a call of its value."""
    with pytest.raises(Killed):
        lm.search(PROMPT, checkpoint=folder, **more | {"value": stop_at(call)})
    lm.clear_cache()


def costs(result: Any) -> dict[str, int]:
    """What was spent that does not depend on what had to be read again."""
    return {kind: getattr(result.ledger, kind) for kind in COSTS}


def again(**own: Any) -> dict[str, Any]:
    """The code of a search, which is given again."""
    return {"value": score, "finish": ends, "draft": None} | own


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("call", [1, 2, 3])
def test_what_is_gone_on_with_ends_alike(lm: hb.LM, name: str, call: int, tmp_path: File) -> None:
    whole = lm.search(PROMPT, seed=4, **options(name))
    begun(lm, tmp_path, call, **options(name, seed=4))
    result = lm.search(resume=tmp_path, **again())
    assert shown(result) == shown(whole)
    assert costs(result) == costs(whole)
    assert result.stop == "over"
    assert [p.text for p in result.tree.paths.values()] == [p.text for p in whole.tree.paths.values()]
    assert lm.tree.stats()["branches"] == 0
    # What is over is read, and nothing is written any more.
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    once_more = lm.search(resume=tmp_path, **again(value=stop_at(1)))
    assert shown(once_more) == shown(whole)
    assert once_more.ledger.forwards == result.ledger.forwards
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(RECIPES)),
    kind=st.sampled_from(COSTS),
    first=st.integers(1, 40),
    more=st.integers(0, 40),
    call=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_a_budget_may_grow(
    lm: hb.LM,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    kind: str,
    first: int,
    more: int,
    call: int,
    seed: int,
) -> None:
    """Whether the process was killed or the first budget ended it: the end is that of a search that had the
    second from the beginning."""
    unit = {"tokens": 4, "kv_bytes": 16384, "verifier_calls": 1}[kind]
    small, large = Budget(**{kind: first * unit}), Budget(**{kind: (first + more) * unit})  # type: ignore[arg-type]
    folder = tmp_path_factory.mktemp("search")
    lm.clear_cache()
    try:
        whole = lm.search(PROMPT, budget=large, **options(name, seed=seed))
    except BudgetExhausted:
        whole = None
    with suppress(BudgetExhausted, Killed):
        lm.search(PROMPT, checkpoint=folder, **options(name, seed=seed, budget=small, value=stop_at(call)))
    try:
        result = lm.search(resume=folder, budget=large, **again())
    except BudgetExhausted:
        assert whole is None
        return
    assert whole is not None
    assert shown(result) == shown(whole)
    assert result.stop == whole.stop
    assert costs(result) == costs(whole)


def test_a_smaller_budget_ends_at_once(lm: hb.LM, tmp_path: File) -> None:
    begun(lm, tmp_path, 3, **options("rebase"))
    result = lm.search(resume=tmp_path, budget=Budget(tokens=3), **again(value=stop_at(1)))
    assert result.stop == "tokens"
    assert result.best is not None
    assert result.ledger.tokens > 3
    # It is the budget of the folder from now on; a larger one goes on.
    assert lm.search(resume=tmp_path, **again(value=stop_at(1))).stop == "tokens"
    whole = lm.search(PROMPT, **options("rebase"))
    assert shown(lm.search(resume=tmp_path, budget=Budget(), **again())) == shown(whole)


def test_an_error_and_an_interrupt_leave_a_search_to_go_on_with(lm: hb.LM, tmp_path: File) -> None:
    whole = lm.search(PROMPT, **options("dvts"))
    for number, error in enumerate([ValueError("no"), KeyboardInterrupt()]):
        calls: list[int] = []

        def value(paths: Sequence[Path], calls: list[int] = calls, error: Any = error) -> list[float]:
            calls.append(1)
            if len(calls) == 3:
                raise error
            return score(paths)

        folder = tmp_path / str(number)
        assert lm.search(PROMPT, checkpoint=folder, **options("dvts", value=value)).best is not None
        assert shown(lm.search(resume=folder, **again())) == shown(whole)


# -- a process that is killed --------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, time
import hornbeam as hb
from tests import models
from tests.search import test_checkpoint as own

folder, how, after = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = 0

def value(paths):
    global calls
    calls += 1
    if how == "value" and calls == after:
        os.kill(os.getpid(), signal.SIGKILL)
    return own.score(paths)

if how == "file":  # killed when a file is written, and has not taken its name yet
    replace, files = os.replace, 0

    def replaced(*names):
        global files
        files += 1
        if files == after:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names)

    os.replace = replaced
lm = hb.LM(models.llama(), models.byte_tokenizer())
lm.search(own.PROMPT, checkpoint=folder, **own.options("rebase", value=value))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize(("how", "after", "rounds"), [("value", 3, 2), ("file", 3, 1)])
def test_a_process_is_killed(lm: hb.LM, tmp_path: File, how: str, after: int, rounds: int) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), how, str(after)],
        env=os.environ | {"PYTHONPATH": paths},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list(tmp_path.glob("round-*"))) == rounds
    assert bool(list(tmp_path.glob(".*.partial"))) == (how == "file")
    whole = lm.search(PROMPT, **options("rebase"))
    lm.clear_cache()
    result = lm.search(resume=tmp_path, **again())
    assert shown(result) == shown(whole)
    assert costs(result) == costs(whole)
    assert not list(tmp_path.glob(".*"))


# -- recipes of one's own ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Own(Rebase):
    """A policy of somebody else's; it may not decide by what it was told."""

    extra: Any = field(default=())

    def open(self, seed: int) -> Search:
        found = super().open(seed)
        return Moody(found) if self.extra == "moody" else found


class Moody(Search):
    """Asks for something else from its second round on, in each of its lives."""

    lives = 0

    def __init__(self, inner: Search) -> None:
        self.inner = inner
        Moody.lives += 1

    def ask(self, most: int | None = None) -> list[Expansion]:
        return self.inner.ask(min(most or 9, 1 + Moody.lives))

    def tell(self, trial: int, values: Sequence[float], finished: Sequence[bool]) -> None:
        self.inner.tell(trial, values, finished)

    def live(self) -> list[bool]:
        return self.inner.live()

    @property
    def is_over(self) -> bool:
        return self.inner.is_over


def test_a_recipe_of_ones_own_is_given_again(lm: hb.LM, tmp_path: File) -> None:
    own = Own(width=6, max_depth=3, extra=(1, Rebase(width=2)))
    begun(lm, tmp_path / "own", 2, **options("rebase", recipe=own))
    with pytest.raises(ArgumentError, match=r"recipe is None, expected Own\(.*cannot be made from a file"):
        lm.search(resume=tmp_path / "own", **again())
    with pytest.raises(ArgumentError, match=r"recipe is Own.*expected Own"):
        lm.search(resume=tmp_path / "own", recipe=Own(width=6, max_depth=3), **again())
    result = lm.search(resume=tmp_path / "own", recipe=own, **again())
    assert shown(result) == shown(lm.search(PROMPT, **options("rebase")))
    with pytest.raises(ArgumentError, match=r"recipe\.extra is <object.*expected numbers, text"):
        lm.search(PROMPT, checkpoint=tmp_path / "new", **options("rebase", recipe=Own(extra=object())))
    assert not (tmp_path / "new").exists()


def test_a_policy_that_asks_for_something_else_is_refused(lm: hb.LM, tmp_path: File) -> None:
    moody = Own(width=6, max_depth=3, extra="moody")
    begun(lm, tmp_path, 2, **options("rebase", recipe=moody))
    with pytest.raises(ArgumentError, match="expected one that decides by what it is told alone"):
        lm.search(resume=tmp_path, recipe=moody, **again())
