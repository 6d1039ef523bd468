"""Countdown: reach a target with some numbers, each used exactly once, and small models that try to.

A problem knows its prompt, where a path ends, what solves it, and which paths can still lead there::

    from hornbeam.tasks import countdown

    problem = countdown.Problem.parse("3 5 7 11 -> 43")
    assert problem.solves("11 * 3 = 33\\n7 + 5 = 12\\n33 + 12 = 45") is False
    assert problem.fault("11 - 3 = 8\\n7 * 5 = 35\\n35 + 8 = 43\\n") is None
"""

from hornbeam.tasks.countdown.models import (
    MODELS,
    SHIPPED,
    folder_of,
    load,
    problems,
    training,
    value_head_file,
)
from hornbeam.tasks.countdown.problem import Problem, Step, steps_of
from hornbeam.tasks.countdown.reach import reachable
from hornbeam.tasks.countdown.tokens import tokenizer

__all__ = [
    "MODELS",
    "SHIPPED",
    "Problem",
    "Step",
    "folder_of",
    "load",
    "problems",
    "reachable",
    "steps_of",
    "tokenizer",
    "training",
    "value_head_file",
]
