"""Searches that outlive their process: what identifies one, and how it is gone on with.

A policy decides by what it was told alone, and a path's random numbers are named by its node. So a search is
gone on with by asking and telling its policy anew, with the outcomes that were saved; live paths are read
again from their tokens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from hornbeam.errors import ArgumentError
from hornbeam.model.fingerprint import fingerprint
from hornbeam.search.budget import Budget
from hornbeam.search.checkpoint import SearchFolder
from hornbeam.search.policy import POLICIES, Policy
from hornbeam.search.step_end import StepEnd

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine
    from hornbeam.engine.searching import Searching

__all__ = ["Begun", "begin", "go_on"]


@dataclass(frozen=True)
class Begun:
    """The arguments of a search, those of the folder where they were left out.

    Attributes:
        prompt: as the caller gave it, or token ids.
        recipe: where to search.
        step: where steps end.
        budget: what may be spent, of which the folder's rounds have spent some.
        seed: of everything random.
        folder: of the search that is gone on with, if it is one.
    """

    prompt: Any
    recipe: Any
    step: Any
    budget: Any
    seed: Any
    folder: SearchFolder | None = None

    @classmethod
    def of(
        cls, resume: Any, checkpoint: Any, prompt: Any, recipe: Any, step: Any, budget: Any, seed: Any
    ) -> Begun:
        """Settles what was left out (None).

        Raises:
            ArgumentError: ``resume`` has no search, or one that was begun with other arguments.
        """
        for name, given in (("resume", resume), ("checkpoint", checkpoint)):
            if given is not None and not isinstance(given, (str, os.PathLike)):
                raise ArgumentError(f"{name} is {given!r}, expected the path of a folder")
        if resume is None:
            step, budget = StepEnd() if step is None else step, Budget() if budget is None else budget
            return cls(prompt, recipe, step, budget, 0 if seed is None else seed)
        if checkpoint is not None:
            raise ArgumentError(
                "checkpoint is given beside resume, expected one of them: a search that is gone on with "
                "is written into its own folder"
            )
        folder = SearchFolder.open(resume)
        facts = folder.facts
        if recipe is None:
            recipe = _recipe_of(facts["recipe"])
        stored_step = StepEnd(**facts["step"])
        for name, given, stored in (("step", step, stored_step), ("seed", seed, facts["seed"])):
            if given is not None and given != stored:
                raise ArgumentError(f"{name} is {given!r}, expected {stored!r} of the search in {resume}")
        return cls(
            facts["prompt_ids"] if prompt is None else prompt,
            recipe,
            stored_step,
            Budget(**folder.budget) if budget is None else budget,
            facts["seed"],
            folder,
        )


def begin(searching: Searching, checkpoint: Any, given: Mapping[str, Any]) -> None:
    """Writes every round of a search into a new folder, ``checkpoint``; ``given`` has its callables, or None.

    Raises:
        ArgumentError: the folder holds a search already, or its recipe has what JSON cannot hold.
    """
    _write_into(
        SearchFolder.create(checkpoint, _facts(searching, given), asdict(searching.budget)), searching
    )


def go_on(searching: Searching, folder: SearchFolder, given: Mapping[str, Any]) -> None:
    """Brings a search to where its folder ends, and writes what follows.

    Where the budget has grown, rounds that the old one had cut short are let go, with what they cost: they
    are written anew.

    Raises:
        ArgumentError: it was begun with other arguments, or with another model.
    """
    _check(folder, _facts(searching, given))
    folder.go_on(_replay(searching, folder), asdict(searching.budget))
    _write_into(folder, searching)


def _write_into(folder: SearchFolder, searching: Searching) -> None:
    written = searching.last

    def write() -> None:
        nonlocal written
        if searching.last is not None and searching.last is not written:
            folder.add(searching.last)
            written = searching.last

    searching.observe(write)


def _replay(searching: Searching, folder: SearchFolder) -> int:
    """Tells the policy the rounds of the folder, and returns how many of them stand."""
    ahead = searching.policy.open(searching.seed)
    for count, old in enumerate(folder.rounds):
        most = max(searching.spending.affordable(searching.leaves())[0], old.most)
        asked = ahead.ask(most)
        if asked != old.asked:
            if most == old.most:
                raise ArgumentError(
                    f"the recipe asks for {asked} in round {count + 1} of the search in {folder.folder}, "
                    f"where it asked for {old.asked}; expected one that decides by what it is told alone"
                )
            return count
        each = max(searching.spending.each(sum(one.children for one in asked)), old.each)
        if each > old.each and any(len(path.token_ids) - path.step == old.each for path in old.paths):
            return count
        searching.tell(ahead, old)
        searching.repeat(old, most)
    return len(folder.rounds)


# -- what identifies a search --------------------------------------------------------------------------------


def _facts(searching: Searching, given: Mapping[str, Any]) -> dict[str, Any]:
    engine: Engine = searching.engine
    facts = {
        "prompt_ids": searching.prompt,
        "recipe": _described(searching.policy, "recipe") | {"shipped": _is_shipped(searching.policy)},
        "step": asdict(searching.step),
        "seed": searching.seed,
        "model": fingerprint(engine.model, engine.tokenizer) | {"kv_dtype": str(engine.tree.dtype)},
        "given": sorted(name for name, value in given.items() if value is not None),
    }
    loaded: dict[str, Any] = json.loads(json.dumps(facts))
    return loaded


def _check(folder: SearchFolder, now: Mapping[str, Any]) -> None:
    """Raises ArgumentError where a search is not the one that the folder holds."""
    then, where = folder.facts, f"of the search in {folder.folder}"
    if now["prompt_ids"] != then["prompt_ids"]:
        raise ArgumentError(f"prompt is another than that {where}; it may be left out")
    if now["recipe"] != then["recipe"]:
        raise ArgumentError(f"recipe is {_shown(now['recipe'])}, expected {_shown(then['recipe'])} {where}")
    for name, digest in then["model"].items():
        if now["model"].get(name) != digest:
            raise ArgumentError(
                f"the model has another {name} than that {where}, expected the model that it was begun with"
            )
    for name in sorted({*then["given"], *now["given"]}):
        if name in then["given"] and name not in now["given"]:
            raise ArgumentError(f"{name} is None, expected the callable {where}, which no file can hold")
        if name not in then["given"]:
            raise ArgumentError(f"{name} is given, expected None as {where}")


def _described(value: Any, name: str) -> Any:
    """A recipe or a part of it, as JSON can hold it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_described(one, name) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        own = {one.name: getattr(value, one.name) for one in fields(value)} | vars(value)
        return {
            "class": type(value).__qualname__,
            "fields": {field: _described(one, f"{name}.{field}") for field, one in own.items()},
        }
    raise ArgumentError(
        f"{name} is {value!r}, expected numbers, text and dataclasses of these alone: a search with "
        "checkpoint= writes its recipe into a file"
    )


def _is_shipped(recipe: Policy) -> bool:
    """Whether the class is one of ours, and its fields say all of it."""
    plain = all(one is None or isinstance(one, (bool, int, float, str)) for one in vars(recipe).values())
    return plain and POLICIES.get(type(recipe).__qualname__) is type(recipe)


def _recipe_of(stored: Mapping[str, Any]) -> Policy:
    if not stored["shipped"]:
        raise ArgumentError(
            f"recipe is None, expected {_shown(stored)}: a recipe of your own cannot be made from a file"
        )
    made: Policy = POLICIES[stored["class"]](**stored["fields"])
    return made


def _shown(stored: Mapping[str, Any]) -> str:
    return f"{stored['class']}({', '.join(f'{name}={value!r}' for name, value in stored['fields'].items())})"
