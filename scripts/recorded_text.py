"""What ``record_states.py`` wrote, for training: whole sequences, in groups of similar length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from record_states import TAPS
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["HELD_OUT_EVERY", "Text", "batches", "load_texts", "stack"]

HELD_OUT_EVERY = 20


@dataclass
class Text:
    """One recorded sequence: ``tokens [n]``, ``hidden [n, taps, H]`` (the last row is not known)."""

    tokens: Tensor
    hidden: Tensor


def load_texts(folder: Path, taps: tuple[int, ...]) -> list[Text]:
    """All recorded sequences; the tensors stay in the files' memory maps as far as they can."""
    columns = [TAPS.index(tap) for tap in taps]
    texts = []
    for file in sorted(folder.glob("*.safetensors")):
        data = load_file(file)
        ends = data["offsets"].tolist()
        hidden = data["hidden"] if taps == TAPS else data["hidden"][:, columns]
        texts += [Text(data["tokens"][a:b].long(), hidden[a:b]) for a, b in pairwise(ends) if b - a > 8]
    return texts


def batches(texts: list[Text], size: int, generator: torch.Generator) -> Iterator[list[Text]]:
    """Sequences of similar length together, in random order, about ``size`` tokens at once."""
    lengths = torch.tensor([len(text.tokens) for text in texts]).float()
    order = (lengths + 20 * torch.rand(len(texts), generator=generator)).argsort().tolist()
    groups, group, width = [], [], 0
    for index in order:
        width = max(width, len(texts[index].tokens))
        if group and width * (len(group) + 1) > size:
            groups.append(group)
            group, width = [], len(texts[index].tokens)
        group.append(index)
    groups.append(group)
    for at in torch.randperm(len(groups), generator=generator).tolist():
        yield [texts[index] for index in groups[at]]


def stack(texts: list[Text]) -> tuple[Tensor, Tensor, Tensor]:
    lengths = torch.tensor([len(text.tokens) for text in texts])
    width = int(lengths.max())
    tokens = torch.zeros((len(texts), width), dtype=torch.int64)
    hidden = torch.zeros((len(texts), width, *texts[0].hidden.shape[1:]), dtype=torch.float16)
    for row, text in enumerate(texts):
        tokens[row, : lengths[row]] = text.tokens
        hidden[row, : lengths[row]] = text.hidden
    return tokens, hidden, lengths
