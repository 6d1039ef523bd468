"""Tasks that ``hornbeam search`` knows: problems with a model of their own, and a check of what is found."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hornbeam.errors import ArgumentError

__all__ = ["TASKS", "Task", "check_task", "task_of"]


@dataclass(frozen=True)
class Task:
    """A problem, read from its text, and what belongs to it.

    Attributes:
        prompt: what the model is given, as it is.
        max_depth: steps of an answer.
        step: where steps end.
        finish: as in :meth:`hornbeam.LM.search`.
        fault: of the text of a path, why it does not solve the problem; None if it does.
        open_lm: loads the task's model; the message of its error says how to get one that is not there.
        open_value: loads the value that comes with that model.
    """

    prompt: str
    max_depth: int
    step: Any
    finish: Callable[[Any], Any]
    fault: Callable[[str], str | None]
    open_lm: Callable[[], Any]
    open_value: Callable[[], Any]


def _countdown(text: str) -> Task:
    countdown: Any = importlib.import_module("hornbeam.tasks.countdown")
    search: Any = importlib.import_module("hornbeam.search")
    problem = countdown.Problem.parse(text)
    return Task(
        problem.prompt,
        problem.num_steps,
        problem.step_end(),
        problem.finish,
        problem.fault,
        countdown.load,
        lambda: search.ValueHead.from_file(countdown.value_head_file()),
    )


#: By name, what reads a problem. A wrong name is refused without torch.
TASKS: dict[str, Callable[[str], Task]] = {"countdown": _countdown}


def task_of(name: str, text: str) -> Task:
    """A problem of a task.

    Args:
        name: of the task.
        text: of the problem.

    Raises:
        ArgumentError: there is no such task, or the text is no problem of it.
    """
    check_task(name)
    return TASKS[name](text)


def check_task(name: str) -> None:
    """Refuses the name of no task.

    Raises:
        ArgumentError: as it says.
    """
    if name not in TASKS:
        raise ArgumentError(f'--task is "{name}", expected one of: {", ".join(TASKS)}')
