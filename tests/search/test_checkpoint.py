"""Searches on disk: whatever ends the process, what is gone on with ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbeam as hb
from hornbeam.errors import ArgumentError, BudgetExhausted
from hornbeam.search import Budget, Path, Rebase, Search, SearchTree, StepEnd
from hornbeam.search.policy.base import Expansion
from tests import models
from tests.search.test_search import PROMPT, RECIPES, STEP, ends, score, shown

ROOT = File(__file__).parent.parent.parent
COSTS = ("tokens", "kv_bytes", "verifier_calls")


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
    whole = lm.search(PROMPT, seed=5, **options(name))
    begun(lm, tmp_path, call, **options(name, seed=5))
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


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(lm: hb.LM, tmp_path_factory: pytest.TempPathFactory) -> File:
    """A search of two rounds, not to be changed."""
    made = tmp_path_factory.mktemp("searches") / "new" / "search"
    begun(lm, made, 3, **options("rebase", budget=Budget(tokens=1000)))
    return made


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": "where from?"}, "prompt is another than that of the search in"),
        ({"recipe": RECIPES["dvts"]}, r"recipe is DVTS\(.*expected Rebase\(.*width=6.* of the search in"),
        ({"recipe": hb.recipes.rebase(width=7, max_depth=3)}, r"width=7.*expected Rebase\(.*width=6"),
        ({"seed": 1}, "seed is 1, expected 0 of the search in"),
        ({"step": StepEnd()}, "step is StepEnd.*64.*, expected StepEnd.*6.* of the search in"),
        ({"value": None}, "value is None, expected the callable of the search in"),
        ({"finish": None}, "finish is None, expected the callable of the search in"),
        ({"checkpoint": "folder"}, "checkpoint is given beside resume, expected one of them"),
        ({"resume": 3}, "resume is 3, expected the path of a folder"),
        ({"budget": 3}, "budget is 3, expected a hornbeam.Budget"),
    ],
)
def test_another_search_is_refused(lm: hb.LM, folder: File, given: dict[str, Any], message: str) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ArgumentError, match=message):
        lm.search(**{"resume": folder} | again() | given)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_the_same_arguments_may_be_given(lm: hb.LM, folder: File, tmp_path: File) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    given = options("rebase", budget=Budget(tokens=1000), seed=0)
    whole = lm.search(PROMPT, **given)
    assert shown(lm.search(PROMPT, resume=str(tmp_path / "copy"), **given)) == shown(whole)


def test_another_model_is_refused(folder: File) -> None:
    def message(model: Any, tokenizer: Any, **own: Any) -> str:
        with pytest.raises(ArgumentError) as caught:
            hb.LM(model, tokenizer, **own).search(resume=folder, **again())
        return str(caught.value)

    assert "the model has another weights than that" in message(models.llama(seed=1), models.byte_tokenizer())
    changed = models.llama()
    with torch.no_grad():
        changed.lm_head.weight[7, 7] += 1e-6
    assert "another weights" in message(changed, models.byte_tokenizer())
    penalised = models.llama()
    penalised.generation_config.repetition_penalty = 1.2
    assert "another defaults" in message(penalised, models.byte_tokenizer())
    other = models.llama()
    other.config.rope_parameters["rope_theta"] = 5000.0
    assert "another config" in message(other, models.byte_tokenizer())
    special = models.byte_tokenizer(["<x>"])
    assert "another vocabulary" in message(models.llama(), special)
    assert "another kv_dtype" in message(models.llama(), models.byte_tokenizer(), kv_dtype=torch.bfloat16)


def test_a_folder_with_a_search_is_not_written_over(lm: hb.LM, folder: File, tmp_path: File) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ArgumentError, match=r"holds a search already; expected another folder, or resume="):
        lm.search(PROMPT, checkpoint=folder, **options("rebase"))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match="which is a file, expected a folder"):
        lm.search(PROMPT, checkpoint=tmp_path / "file", **options("rebase"))
    for empty in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ArgumentError, match=r"expected a folder with a search: it has no search\.json"):
            lm.search(resume=empty, **again())


def test_damaged_and_foreign_files_are_refused(lm: hb.LM, folder: File, tmp_path: File) -> None:
    def message(change: Callable[[File], Any]) -> str:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        change(copy)
        with pytest.raises(ArgumentError) as caught:
            lm.search(resume=copy, **again())
        return str(caught.value)

    first, second = "round-000001.safetensors", "round-000002.safetensors"

    def flip(name: str, place: int) -> Callable[[File], Any]:
        def change(copy: File) -> None:
            data = bytearray((copy / name).read_bytes())
            data[place] ^= 1
            (copy / name).write_bytes(bytes(data))

        return change

    def header(**own: Any) -> Callable[[File], Any]:
        def change(copy: File) -> None:
            found = json.loads((copy / "search.json").read_text())
            (copy / "search.json").write_text(json.dumps(found | own))

        return change

    assert f"{first} is damaged: its checksum is that of other contents" in message(flip(first, -1))
    assert "not a safetensors file" in message(lambda copy: (copy / first).write_bytes(b"no such thing"))
    assert "not a safetensors file" in message(lambda copy: os.truncate(copy / second, 200))
    assert f"the search has no {first}" in message(lambda copy: (copy / first).unlink())
    assert "search.json is damaged" in message(header(budget={"tokens": 5}))
    assert "search.json is damaged, or no hornbeam search" in message(
        lambda copy: (copy / "search.json").write_text("{")
    )
    assert "version 2, expected 1 to 1: a later hornbeam wrote it" in message(header(version=2))
    assert "its format is 'another'" in message(header(format="another"))
    assert "it holds a list" in message(lambda copy: (copy / "search.json").write_text("[]"))
    # A round of another search, whole in itself.
    begun(lm, tmp_path / "other", 3, **options("rebase", seed=1))
    swap = message(lambda copy: shutil.copy(tmp_path / "other" / first, copy / first))
    assert f"{first} is of another search than the files before it" in swap
    tree = lm.search(PROMPT, **options("rebase")).tree
    assert "is no hornbeam search round: its format is 'hornbeam search tree'" in message(
        lambda copy: tree.save(copy / first)
    )


def test_any_flipped_bit_is_seen(folder: File, tmp_path: File) -> None:
    """Or it changes nothing, as spaces between two numbers do."""
    from hornbeam.search.checkpoint import SearchFolder

    whole = SearchFolder.open(folder)
    for name in sorted(file.name for file in folder.iterdir()):
        data = (folder / name).read_bytes()
        for place in range(0, len(data), 13):
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            (copy / name).write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
            try:
                found = SearchFolder.open(copy)
            except ArgumentError:
                continue
            assert (found.facts, found.budget) == (whole.facts, whole.budget)
            assert [one.spent for one in found.rounds] == [one.spent for one in whole.rounds]


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


# -- trees ---------------------------------------------------------------------------------------------------


def test_a_tree_is_saved_and_loaded(lm: hb.LM, tmp_path: File) -> None:
    def answer(path: Path) -> str | None:
        return f"\ud800 {len(path.token_ids)}" if ends(path) else None

    tree = lm.search(PROMPT, **options("step_beam", finish=answer)).tree
    tree.save(tmp_path / "tree.safetensors")
    tree.save(tmp_path / "tree.safetensors")
    found = SearchTree.load(tmp_path / "tree.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["tree.safetensors"]

    def told(tree: SearchTree) -> Any:
        return {
            node: (
                None if path.parent is None else path.parent.node,
                *(path.text, path.token_ids, path.logprobs, path.step, path.prompt_ids),
                *(path.is_finished, path.answer, path.value, path.depth, path.step_text),
            )
            for node, path in tree.paths.items()
        }

    assert told(found) == told(tree)
    assert found.finished
    assert all(path.parent is found.paths[path.parent.node] for path in found.paths.values() if path.parent)
    SearchTree({0: found.paths[0]}).save(tmp_path / "alone")
    assert list(SearchTree.load(tmp_path / "alone").paths) == [0]
    for name, message in (("none", "expected a safetensors file"), ("text", "is not a safetensors file")):
        (tmp_path / "text").write_text("no tree")
        with pytest.raises(ArgumentError, match=message):
            SearchTree.load(tmp_path / name)


def test_a_file_that_cannot_be_written_ends_the_search_with_what_there_is(
    lm: hb.LM, tmp_path: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lm.search(PROMPT, **options("rebase"))
    replace, files = os.replace, 0

    def full(*names: Any) -> None:
        nonlocal files
        files += 1
        if files == 3:
            raise OSError("no space left on device")
        replace(*names)

    monkeypatch.setattr(os, "replace", full)
    result = lm.search(PROMPT, checkpoint=tmp_path, **options("rebase"))
    assert result.stop == "error"
    assert "no space left" in str(result.error)
    assert result.best is not None
    assert lm.tree.stats()["branches"] == 0
    assert not list(tmp_path.glob(".*"))
    assert shown(lm.search(resume=tmp_path, **again())) == shown(whole)
