"""Where the training of a feature head has come to, in one file that is replaced in one move."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.tensor_file import read_tensors, replace_tensors
from hornbeam.training.dense_head import DenseHead

__all__ = ["Progress", "load_checkpoint", "read_draft_ids", "save_checkpoint"]

FORMAT = "hornbeam-head-checkpoint-1"


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        steps: gradient steps so far.
        tokens: that they have seen.
        epoch: the pass over the texts that is under way.
        group: the next group of texts in it.
        start_seconds: that the closed form took.
        step_seconds: that steps and measurements took.
        covered: the share of the probability that the head's vocabulary covers.
        divergence: of late, one a guess.
        log: the measurements so far.
    """

    steps: int = 0
    tokens: int = 0
    epoch: int = 0
    group: int = 0
    start_seconds: float = 0.0
    step_seconds: float = 0.0
    covered: float = 0.0
    divergence: list[float] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)


def save_checkpoint(
    file: Path, head: DenseHead, optimizers: Sequence[torch.optim.Optimizer], progress: Progress
) -> None:
    """Writes all that the next step depends on.

    Args:
        file: to write.
        head: that is trained.
        optimizers: of its parameters.
        progress: how far it is.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {f"head.{name}": value.detach() for name, value in head.named_parameters()}
    tensors["draft_ids"] = head.draft_ids
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{index}.{name}": value for name, value in state.items()}
    replace_tensors(file, tensors, {"format": FORMAT, "progress": json.dumps(asdict(progress))})


def read_draft_ids(file: Path) -> Tensor:
    """The tokens that the head of a checkpoint can guess.

    Raises:
        ArgumentError: the file is no checkpoint.
    """
    return _read(file)[0]["draft_ids"].clone()


def load_checkpoint(file: Path, head: DenseHead, optimizers: Sequence[torch.optim.Optimizer]) -> Progress:
    """Puts head and optimizers into the state that a file holds.

    Args:
        file: that :func:`save_checkpoint` wrote.
        head: of the same sizes.
        optimizers: of its parameters.

    Raises:
        ArgumentError: the file is no checkpoint of such a head.
    """
    tensors, progress = _read(file)
    try:
        with torch.no_grad():
            for name, parameter in head.named_parameters():
                parameter.copy_(tensors[f"head.{name}"])
        for number, optimizer in enumerate(optimizers):
            states: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                kind, _, rest = key.partition(".")
                own, _, rest = rest.partition(".")
                if kind == "optimizer" and int(own) == number:
                    index, _, name = rest.partition(".")
                    states.setdefault(int(index), {})[name] = value.clone()
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": states, "param_groups": groups})
        return Progress(**{item.name: progress[item.name] for item in fields(Progress)})
    except (KeyError, RuntimeError, ValueError) as error:
        raise ArgumentError(f"{file} is not the checkpoint of this training: {error}") from error


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, metadata = read_tensors(file, "the checkpoint")
    if metadata.get("format") != FORMAT or "draft_ids" not in tensors:
        raise ArgumentError(f"{file} has the format {metadata.get('format')!r}, expected {FORMAT!r}")
    return tensors, json.loads(metadata.get("progress", "{}"))
