"""Texts of a model with its hidden states, as they are kept in files, and in groups for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.tensor_file import read_tensors

__all__ = ["HELD_OUT_EVERY", "LEAST_TOKENS", "Text", "Texts", "batches", "stack"]

#: Each so many-th text is measured on and never trained on.
HELD_OUT_EVERY = 20
#: Shorter texts are left out.
LEAST_TOKENS = 9


@dataclass
class Text:
    """One recorded sequence: ``tokens [n]``, ``hidden [n, taps, H]`` (the last row is not known)."""

    tokens: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Texts:
    """Recorded texts, apart by what they are for."""

    training: list[Text]
    held_out: list[Text]

    @classmethod
    def load(cls, files: Sequence[Path]) -> Texts:
        """Those of some files, whose tensors stay in memory maps.

        Args:
            files: that :func:`hornbeam.training.recorder.record` wrote, in order.

        Raises:
            ArgumentError: a file is of another kind, or there are too few texts.
        """
        found = []
        for file in files:
            data, _ = read_tensors(file, "a file of recorded texts")
            for begin, end in pairwise(data["offsets"].tolist()):
                if end - begin >= LEAST_TOKENS:
                    found.append(Text(data["tokens"][begin:end].long(), data["hidden"][begin:end]))
        if len(found) < 2:
            raise ArgumentError(
                f"{len(found)} of the texts that the model wrote have {LEAST_TOKENS} tokens or more, expected"
                " at least 2: give more prompts, or longer answers"
            )
        training = [text for at, text in enumerate(found) if at % HELD_OUT_EVERY]
        return cls(training, found[::HELD_OUT_EVERY])

    @property
    def num_training_tokens(self) -> int:
        """Tokens to train on."""
        return sum(len(text.tokens) for text in self.training)


def batches(texts: Sequence[Text], size: int, generator: torch.Generator) -> Iterator[list[Text]]:
    """Sequences of similar length together, in random order, about ``size`` tokens at once."""
    lengths = torch.tensor([len(text.tokens) for text in texts]).float()
    order = (lengths + 20 * torch.rand(len(texts), generator=generator)).argsort(stable=True).tolist()
    groups: list[list[int]] = []
    group: list[int] = []
    width = 0
    for index in order:
        width = max(width, len(texts[index].tokens))
        if group and width * (len(group) + 1) > size:
            groups.append(group)
            group, width = [], len(texts[index].tokens)
        group.append(index)
    groups.append(group)
    for at in torch.randperm(len(groups), generator=generator).tolist():
        yield [texts[index] for index in groups[at]]


def stack(texts: Sequence[Text]) -> tuple[Tensor, Tensor, Tensor]:
    """A group as tensors, padded by zeros: ``tokens [B, N]``, ``hidden [B, N, taps, H]``, ``lengths [B]``."""
    lengths = torch.tensor([len(text.tokens) for text in texts])
    width = int(lengths.max())
    tokens = torch.zeros((len(texts), width), dtype=torch.int64)
    hidden = torch.zeros((len(texts), width, *texts[0].hidden.shape[1:]), dtype=torch.float16)
    for row, text in enumerate(texts):
        tokens[row, : lengths[row]] = text.tokens
        hidden[row, : lengths[row]] = text.hidden
    return tokens, hidden, lengths
