"""Prompts as callers give them, in lists and in data sets, and answers as they get them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number
from hornbeam.integrations.ray.coordinator import Progress
from hornbeam.integrations.ray.work import Job

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["Answers", "Given", "drawn", "lengths", "numbered"]


class Answers(list[Any]):
    """Answers in the order of the prompts.

    Args:
        found: the answers.
        progress: what they have cost, and what was lost on the way.
    """

    def __init__(self, found: Sequence[Any], progress: Progress) -> None:
        super().__init__(found)
        self.progress = progress


class Given:
    """What a call is given, as lists.

    Args:
        prompts: a list of prompts, or a data set.
        names: the columns of a data set, by what they are.
        others: lists beside that of the prompts, by what they are; None beside a data set.

    Raises:
        ArgumentError: it is neither; a list is missing or given twice, or is of another length; or the data
            set has no such column.
    """

    def __init__(self, prompts: Any, names: Mapping[str, str], **others: Any) -> None:
        self._rows: Dataset | None = None
        if hasattr(prompts, "map_batches"):
            if given := [name for name, value in others.items() if value is not None]:
                raise ArgumentError(f"{given[0]} is given beside a data set, expected a column of it")
            self._rows = prompts.materialize()
            columns = self._rows.columns() or []
            if missing := [name for name in names.values() if name not in columns]:
                raise ArgumentError(
                    f"the data set has the columns {columns}, expected {missing[0]!r} among them"
                )
            rows = self._rows.select_columns(list(names.values())).take_all()
            self.columns = {name: [_plain(row[column]) for row in rows] for name, column in names.items()}
        else:
            self.columns = {"prompt": _list(prompts, "prompts")}
            for name, value in others.items():
                self.columns[name] = _list(value, name)
                if len(value) != len(prompts):
                    raise ArgumentError(
                        f"{name} has {len(value)} lists, expected one a prompt, {len(prompts)}"
                    )
        for place, prompt in enumerate(self.columns["prompt"]):
            if isinstance(prompt, (Mapping, Integral)):
                raise ArgumentError(
                    f"prompts holds {prompt!r} at {place}, expected a list of prompts, and not one"
                )

    def returned(self, found: list[Any], progress: Progress, told: Callable[[Any], dict[str, Any]]) -> Any:
        """The answers as the caller is to have them; ``told`` gives the columns of one."""
        if self._rows is None:
            return Answers(found, progress)
        import ray.data

        return self._rows.zip(ray.data.from_items([told(one) for one in found]))


def _list(value: Any, name: str) -> list[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ArgumentError(f"{name} is a {type(value).__name__}, expected a list or a Ray data set")
    return list(value)


def _plain(value: Any) -> Any:
    """A cell as lists, which arrays come as."""
    return value.tolist() if hasattr(value, "tolist") else value


def numbered(prompts: Sequence[Any]) -> list[Job]:
    """One job a prompt. Equal prompts get numbers, and draw different random numbers."""
    seen: dict[str, int] = {}
    jobs = []
    for prompt in prompts:
        key = json.dumps(prompt, default=_plain, sort_keys=True)
        seen[key] = seen.get(key, -1) + 1
        jobs.append(Job(prompt, seen[key]))
    return jobs


def drawn(seed: Any) -> int:
    """The seed of a call; one is drawn where it is None.

    Raises:
        ArgumentError: it is out of range.
    """
    return random.SystemRandom().getrandbits(63) if seed is None else whole_number(seed, "seed", 0, 2**64 - 1)


def lengths(jobs: Sequence[Job], expected: Callable[[Any], float] | None) -> list[float]:
    """How long each job is expected to take, by ``expected`` or by the length of its text."""
    if expected is not None:
        return [float(expected(job.prompt)) for job in jobs]
    return [_tokens(job.prompt) + sum(map(_tokens, job.continuations or ())) for job in jobs]


def _tokens(prompt: Any) -> float:
    """About how many tokens a prompt has: four characters are taken for one."""
    if isinstance(prompt, str):
        return len(prompt) / 4
    if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Mapping):
        return sum(len(str(message.get("content", ""))) for message in prompt) / 4
    return float(len(prompt))
