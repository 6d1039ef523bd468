"""Trains an acceptance head (:class:`hornbeam.speculation.AcceptanceHead`) for a feature head, as SpecDec++
does (Huang et al. 2024, arXiv:2405.19715, section 4.2), on recorded text of the target.

At rows of each text, taken at random, the feature head guesses some tokens in a row. At each depth a token Y
is drawn from its law q given the *recorded* tokens before, and labelled with the probability
min(1, p(Y) / q(Y)) that a ratio test at temperature 1 accepts it, p being the target's law there. The head
reads the states of mixed text, as it will when it is used: Y in most places and the recorded token in a
share of them, which has no label. The loss is the binary cross entropy with a greater weight on refusals.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hornbeam.errors import ArgumentError
from hornbeam.speculation.draft.head_network import HeadFile
from hornbeam.speculation.stop.acceptance_head import FORMAT, acceptance
from hornbeam.tensor_file import replace_tensors
from hornbeam.training.acceptance_figures import figures_of
from hornbeam.training.dense_head import DenseHead
from hornbeam.training.recorded_text import Text, Texts, batches, stack
from hornbeam.training.seeds import generator_of
from hornbeam.training.settings import AcceptanceTraining

__all__ = ["examples", "train_acceptance"]

# Tokens that are computed at once.
GROUP_TOKENS = 2560
# Held-out texts that are measured.
HELD_OUT = 20
# Of the steps, until the learning rate is whole.
RISE = 0.03


@torch.no_grad()
def examples(
    head: DenseHead,
    texts: Sequence[Text],
    settings: AcceptanceTraining,
    mixing: float,
    generator: torch.Generator,
    until: float | None = None,
) -> tuple[Tensor, Tensor]:
    """States ``[n, depth, H]`` and labels ``[n, depth]``, NaN where there is none.

    Args:
        head: that guesses.
        texts: of its target.
        settings: of the training.
        mixing: the share of places where the recorded token takes the place of the drawn one.
        generator: of all draws.
        until: when to begin no further group of texts, as :func:`time.monotonic` tells it.
    """
    depth = settings.depth
    states: list[Tensor] = []
    labels: list[Tensor] = []
    for group in batches(texts, GROUP_TOKENS, generator):
        if states and until is not None and time.monotonic() > until:
            break
        tokens, hidden, lengths = stack(group)
        outputs, keys, values = head.first(tokens[:, 1:], hidden[:, :-1])
        # Row i guesses token i + 2; its truth is the state at i + 1, known up to lengths - 2.
        good = torch.arange(outputs.shape[1]) + depth <= lengths[:, None] - 2
        order = torch.rand(good.shape, generator=generator).masked_fill(~good, -1.0)
        most = max(outputs.shape[1] - depth, 1)
        rows = order.topk(min(settings.rows, most), dim=1).indices
        is_good = good.gather(1, rows)
        rows = rows.masked_fill(~is_good, 0)
        true = outputs.gather(1, rows[:, :, None].expand(-1, -1, outputs.shape[-1]))
        mixed = true
        own_true: list[tuple[Tensor, Tensor]] = []
        own_mixed: list[tuple[Tensor, Tensor]] = []
        found_states, found_labels = [], []
        for step in range(1, depth + 1):
            q = head.logits(true).softmax(dim=-1)
            place = (rows + step).clamp(max=tokens.shape[1] - 2)
            guess = torch.multinomial(q.flatten(0, 1), 1, generator=generator).view(rows.shape)
            y = head.draft_ids[guess]
            final = hidden[:, :, -1].gather(1, place[:, :, None].expand_as(true)).float()
            p = (final @ head.target.output.T).softmax(-1)
            chance = p.gather(2, y[:, :, None])[..., 0] / q.gather(2, guess[:, :, None])[..., 0]
            recorded = tokens.gather(1, place + 1)
            is_recorded = torch.rand(rows.shape, generator=generator) < mixing
            found_labels.append(chance.clamp(max=1.0).masked_fill(is_recorded | ~is_good, torch.nan))
            z = torch.where(is_recorded, recorded, y)
            mixed = head.further(z, mixed, rows, step, (keys, values), own_mixed)
            true = head.further(recorded, true, rows, step, (keys, values), own_true)
            found_states.append(mixed)
        states.append(torch.stack(found_states, dim=2).flatten(0, 1)[is_good.flatten()])
        labels.append(torch.stack(found_labels, dim=2).flatten(0, 1)[is_good.flatten()])
    return torch.cat(states), torch.cat(labels)


def begin(hidden: int, settings: AcceptanceTraining, generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights: blocks that do little, and an even guess."""
    width = settings.width
    weights = {"in.weight": torch.randn(width, hidden, generator=generator) / hidden**0.5}
    for block in range(settings.blocks):
        weights[f"{block}.weight"] = torch.randn(width, width, generator=generator) / width**0.5
        weights[f"{block}.bias"] = torch.zeros(width)
    weights |= {"out.weight": torch.zeros(1, width), "out.bias": torch.zeros(1)}
    return {name: nn.Parameter(value) for name, value in weights.items()}


def loss_of(weights: dict[str, Tensor], states: Tensor, labels: Tensor, refusal_weight: float) -> Tensor:
    """Refusals count ``refusal_weight`` times; divided by the mass of all labels, as the authors do."""
    estimate = acceptance(weights, states).clamp(1e-6, 1 - 1e-6)
    refused = refusal_weight * (1 - labels)
    return -(labels * estimate.log() + refused * (1 - estimate).log()).sum() / (labels + refused).sum()


def train_acceptance(
    head_file: HeadFile,
    head: DenseHead,
    texts: Texts,
    settings: AcceptanceTraining,
    seed: int,
    file: Path,
    *,
    until: float | None,
    note: Callable[[str], Any],
    show: Callable[[str], Any],
) -> dict[str, Any]:
    """Trains an acceptance head and writes it.

    Args:
        head_file: the feature head, as it is stored.
        head: the same with dense attention.
        texts: of its target.
        settings: of the training.
        seed: of everything that is drawn at random.
        file: to write.
        until: when to go on without further labels, as :func:`time.monotonic` tells it; None to take all.
        note: is told what is measured.
        show: is told how far it is.

    Returns:
        How many labels there were and their mean, the losses by epoch, and under ``held_out`` the figures of
        :func:`hornbeam.training.acceptance_figures.figures_of`.

    Raises:
        ArgumentError: no text is long enough for a label.
        OSError: the file cannot be written.
    """
    head.requires_grad_(False)
    show("the feature head guesses")
    draws = generator_of(seed, "labels")
    training = texts.training[: settings.texts]
    states, labels = examples(head, training, settings, settings.mixing, draws, until)
    states, labels = states.flatten(0, 1), labels.flatten()
    states, labels = states[~labels.isnan()], labels[~labels.isnan()]
    held_out = texts.held_out[:HELD_OUT]
    test = examples(head, held_out, settings, 0.0, generator_of(seed, "held-out labels"))
    if not len(labels) or not len(test[1]):
        kind = "held out" if len(labels) else "trained on"
        raise ArgumentError(
            f"no text that is {kind} is long enough for {settings.depth} guesses in a row: let the model "
            "write longer answers"
        )
    note(f"acceptance: {len(labels):,} labels, mean {float(labels.mean()):.3f}")
    generator = generator_of(seed, "acceptance")
    weights = begin(states.shape[1], settings, generator)
    optimizer = torch.optim.AdamW(weights.values(), lr=settings.rate, weight_decay=settings.weight_decay)
    steps = settings.epochs * -(-len(labels) // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.rate, total_steps=max(steps, 2), pct_start=RISE
    )
    losses = []
    for epoch in range(1, settings.epochs + 1):
        total = 0.0
        for at in torch.randperm(len(labels), generator=generator).split(settings.batch):
            loss = loss_of(weights, states[at], labels[at], settings.refusal_weight)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            total += float(loss.detach()) * len(at) / len(labels)
        with torch.no_grad():
            other = loss_of(weights, test[0].flatten(0, 1), test[1].flatten(), settings.refusal_weight)
        losses.append({"epoch": epoch, "training": total, "held_out": float(other)})
        show(f"acceptance, epoch {epoch} of {settings.epochs}: held-out loss {float(other):.3f}")
    stored = {name: value.detach().bfloat16() for name, value in weights.items()}
    found = figures_of({name: value.float() for name, value in stored.items()}, *test)
    fuse = head_file.tensors["fuse.weight"]
    stored["signature"] = fuse[:: max(len(fuse) // 8, 1), :8].flatten().float()
    own = {"blocks": settings.blocks, "draft": head_file.path.name}
    replace_tensors(file, stored, {"format": FORMAT, "settings": json.dumps(own)})
    areas = " ".join(f"{entry['area_under_roc']:.3f}" for entry in found["by_depth"])
    note(f"acceptance: held-out area under the ROC curve {areas}")
    return {
        "training_labels": len(labels),
        "training_texts": len(training),
        "mean_label": float(labels.mean()),
        "losses": losses,
        "held_out": found,
    }
