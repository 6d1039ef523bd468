"""The models, their value heads and the held-out problems that ship with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hornbeam.errors import ArgumentError
from hornbeam.lm import LM
from hornbeam.tasks.countdown.problem import Problem
from hornbeam.tasks.countdown.tokens import tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hornbeam.engine.host import HostKeywords

__all__ = ["MODELS", "SHIPPED", "folder_of", "load", "problems", "training", "value_head_file"]

#: Names of models: their size, and ``-traces`` where they look at several operations before each step.
MODELS = ("small", "large", "small-traces")
#: Those whose weights are in the package; the others are trained by ``benches/tasks/countdown/train.py``.
SHIPPED = ("small",)
#: Where the weights lie.
WEIGHTS = Path(__file__).parent / "weights"
#: Held-out problems, as text, by split.
PROBLEMS = Path(__file__).parent / "problems.json"


def folder_of(size: str = "small", traces: bool = False, folder: Path | None = None) -> Path:
    """Where the weights of a model lie.

    Args:
        size: ``"small"`` or ``"large"``.
        traces: the variant that looks at several operations before each step, about 40 tokens a step.
        folder: that has a folder for each model; by default the one in the package.

    Raises:
        ArgumentError: there is no such model, or its weights are missing; the message says how to make them.
    """
    name = f"{size}-traces" if traces else size
    if name not in MODELS:
        raise ArgumentError(f"model is {name!r}, expected one of {', '.join(MODELS)}")
    found = (folder or WEIGHTS) / name
    missing = [
        file for file in ("model.safetensors", "value_head.safetensors") if not (found / file).is_file()
    ]
    if missing:
        raise ArgumentError(
            f"the Countdown model {name} is not in {found}: {' and '.join(missing)} missing. In a checkout, "
            f"python benches/tasks/countdown/train.py {name} trains it on one core of a CPU"
        )
    return found


def load(
    size: str = "small", traces: bool = False, *, folder: Path | None = None, **options: Unpack[HostKeywords]
) -> LM:
    """A model that was trained on Countdown, with its tokenizer, in float32 on the CPU.

    Args:
        size: ``"small"`` or ``"large"``.
        traces: the variant that looks at several operations before each step.
        folder: as :func:`folder_of` has it.
        options: of :class:`hornbeam.LM`.

    Raises:
        ArgumentError: there is no such model, or its weights are not there.
        MissingExtra: transformers is not installed.
    """
    place = folder_of(size, traces, folder)
    words = tokenizer()
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, local_files_only=True)
    return LM(model.eval(), words, **options)


def value_head_file(size: str = "small", traces: bool = False, folder: Path | None = None) -> Path:
    """The safetensors file of a model's value head, trained on outcomes of its rollouts alone.

    Args:
        size: as in :func:`load`.
        traces: likewise.
        folder: likewise.

    Raises:
        ArgumentError: as :func:`folder_of` does.
    """
    return folder_of(size, traces, folder) / "value_head.safetensors"


def training(size: str = "small", traces: bool = False, folder: Path | None = None) -> dict[str, Any]:
    """How a model was trained: parameters, steps, losses, seconds, processor.

    Args:
        size: as in :func:`load`.
        traces: likewise.
        folder: likewise.

    Raises:
        ArgumentError: as :func:`folder_of` does.
    """
    text = (folder_of(size, traces, folder) / "training.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def problems(split: str = "test") -> list[Problem]:
    """Problems that no model was trained on, none of them twice.

    Args:
        split: ``"test"``, of 500 problems, or ``"development"``, on which the choice of them was made.

    Raises:
        ArgumentError: there is no such split.
    """
    found = json.loads(PROBLEMS.read_text(encoding="utf-8"))["splits"]
    if split not in found:
        raise ArgumentError(f"split is {split!r}, expected one of {', '.join(found)}")
    return [Problem.parse(text) for text in found[split]]
