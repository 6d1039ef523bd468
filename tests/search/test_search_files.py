"""Files of searches: what is damaged, of another search or of another model is refused by name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path as File
from typing import Any

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.search import Budget, Path, SearchTree, StepEnd
from hornbeam.search.checkpoint import SearchFolder
from tests import models
from tests.search.test_checkpoint import again, begun, options
from tests.search.test_search import PROMPT, RECIPES, ends, shown


@pytest.fixture(scope="module")
def lm() -> hb.LM:
    return hb.LM(models.llama(), models.byte_tokenizer())


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
