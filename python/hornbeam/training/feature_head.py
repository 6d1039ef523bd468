"""Trains a feature head on recorded text of its target.

The head is one decoder layer. Row ``i`` takes the embedding of token ``i + 1`` and the target's hidden
states of token ``i`` and guesses token ``i + 2``; its output stands in for the hidden states of the next,
unknown row. It begins as a closed-form fit (``closed_form.py``) and is then trained as it is used (the
"training-time test" of EAGLE-3, Li et al. 2025, arXiv:2503.01840): after the first pass over true features,
a share of the rows is continued for ``unroll - 1`` further steps on the head's own outputs. The loss of
every step is the Kullback-Leibler divergence from the target's own distribution over the draft vocabulary,
not the likelihood of the token that was drawn: a recorded token then teaches as much as many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hornbeam.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from hornbeam.training.dense_head import DenseHead, save, unrolled
from hornbeam.training.muon import optimizers
from hornbeam.training.recorded_text import Text, Texts, batches, stack
from hornbeam.training.seeds import generator_of
from hornbeam.training.settings import HeadTraining

__all__ = ["FeatureTraining", "measure"]

# Guesses in a row that are measured in between.
DEPTH = 4
# Tokens that are measured at once.
GROUP_TOKENS = 4096
# Of the learning rate: steps until it is whole, the share of the training that it falls in, and its end.
WARM_UP, FALL, LAST_RATE = 20, 0.8, 0.02
# What the last step's divergence counts in the one that is shown.
NEW = 0.2


class FeatureTraining:
    """A feature head in training.

    Args:
        head: as it begins.
        texts: of its target.
        settings: of the training.
        head_file: where the head is written, whenever it is measured.
        checkpoint: where its state is kept then.
        note: is told what is measured.
        show: is told how far it is.
    """

    def __init__(
        self,
        head: DenseHead,
        texts: Texts,
        settings: HeadTraining,
        *,
        head_file: Path,
        checkpoint: Path,
        note: Callable[[str], Any],
        show: Callable[[str], Any],
    ) -> None:
        self.head = head
        self.texts = texts
        self.settings = settings
        self.head_file = head_file
        self.checkpoint = checkpoint
        self.note = note
        self.show = show
        self.optimizers = optimizers(head, settings.rate)
        self.progress = Progress()
        self.seconds: float | None = None
        self._num_tokens = texts.num_training_tokens
        self._begin = self._before = 0.0

    def begin(self, covered: float, seconds: float) -> None:
        """Takes the head as it is for the beginning.

        Args:
            covered: the share of the probability that its vocabulary covers.
            seconds: that it took to make.
        """
        self.progress = Progress(covered=covered, start_seconds=seconds)
        self._measure()

    def resume(self) -> None:
        """Goes on from the checkpoint.

        Raises:
            ArgumentError: it is not one of this head.
        """
        self.progress = load_checkpoint(self.checkpoint, self.head, self.optimizers)

    def run(self, seconds: float | None) -> None:
        """Takes steps until there were enough.

        Args:
            seconds: that steps may take in all, those before a break included; None where they are counted.
        """
        self.seconds = seconds
        self._begin, self._before = time.monotonic(), self.progress.step_seconds
        first, progress = self.progress.steps, self.progress
        while self._done() < 1:
            order = generator_of(self.settings.seed, "the order of the texts", progress.epoch)
            for number, group in enumerate(batches(self.texts.training, self.settings.step_tokens, order)):
                if number < progress.group:
                    continue
                if (done := self._done()) >= 1:
                    break
                self._step(group, done)
                progress.group = number + 1
                if progress.steps % self.settings.every == 0:
                    self._measure()
            else:
                progress.epoch, progress.group = progress.epoch + 1, 0
        if progress.steps > first and progress.steps % self.settings.every:
            self._measure()

    def _spent(self) -> float:
        return self._before + time.monotonic() - self._begin

    def _done(self) -> float:
        """The share of the training that is over; 1 or more at its end."""
        if self.settings.steps is not None:
            return 1.0 if not self.settings.steps else self.progress.steps / self.settings.steps
        assert self.seconds is not None, "the training has neither steps nor seconds"
        return 1.0 if self.seconds <= 0 else self._spent() / self.seconds

    def _step(self, group: Sequence[Text], done: float) -> None:
        settings, progress = self.settings, self.progress
        rise, fall = min(1.0, (progress.steps + 1) / WARM_UP), min(1.0, (1 - done) / FALL)
        for optimizer in self.optimizers:
            for part in optimizer.param_groups:
                part["lr"] = settings.rate * rise * (LAST_RATE + (1 - LAST_RATE) * fall)
        tokens, hidden, lengths = stack(group)
        divergences = self._divergences(tokens, hidden, lengths)
        loss = torch.stack([settings.decay**at * value for at, value in enumerate(divergences)]).sum()
        loss.backward()
        nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        found = [float(value.detach()) for value in divergences]
        before = progress.divergence
        progress.divergence = [
            value if at >= len(before) else (1 - NEW) * before[at] + NEW * value
            for at, value in enumerate(found)
        ] + before[len(found) :]
        progress.steps += 1
        progress.tokens += int(lengths.sum())
        self.show(f"step {progress.steps:,}, {min(done, 1):.0%}: divergence {found[0]:.3f}")

    def _divergences(self, tokens: Tensor, hidden: Tensor, lengths: Tensor) -> list[Tensor]:
        """Of the head from the target, one a guess in a row; fewer where the texts are too short."""
        settings = self.settings
        truth = torch.log_softmax(hidden[:, :, -1].flatten(0, 1).float() @ self.head.vocabulary.T, dim=-1)
        draws = generator_of(settings.seed, "rows that are continued", self.progress.steps)
        found = []
        for features, where in unrolled(
            self.head, tokens, hidden, lengths, settings.unroll, settings.continued, draws
        ):
            if len(features):
                wanted, got = truth[where], torch.log_softmax(self.head.logits(features), dim=-1)
                found.append((wanted.exp() * (wanted - got)).sum(dim=-1).mean())
        return found

    def _measure(self) -> None:
        """Measures the head, and keeps all that the next step depends on."""
        progress = self.progress
        curve = measure(self.head, self.texts.held_out[: self.settings.held_out], DEPTH)
        if progress.steps:
            progress.step_seconds = self._spent()
        progress.log.append(
            {
                "minutes": round(progress.step_seconds / 60, 2),
                "steps": progress.steps,
                "tokens": progress.tokens,
                "epoch": progress.tokens / self._num_tokens,
                "divergence": [round(value, 4) for value in progress.divergence],
                "held_out": curve,
            }
        )
        save_checkpoint(self.checkpoint, self.head, self.optimizers, progress)
        save(self.head, self.head_file)
        shares = " ".join(f"{entry['greedy']:.3f}/{entry['overlap']:.3f}" for entry in curve)
        self.note(
            f"step {progress.steps:,}, {progress.step_seconds / 60:.1f} min, "
            f"{progress.tokens / self._num_tokens:.2f} epochs: held out {shares}"
        )


@torch.no_grad()
def measure(head: DenseHead, texts: Sequence[Text], depth: int) -> list[dict[str, float]]:
    """What a target would accept of a head, given true tokens before.

    Args:
        head: to be measured.
        texts: held-out ones.
        depth: guesses in a row, of which the texts may be too short for the last.

    Returns:
        By ``depth``, from 1: ``greedy``, the share of places where head and target agree on the best token,
        and ``overlap``, the mean of the sum of min(p, q), which is the chance that a token drawn from the
        head survives a ratio test at temperature 1.
    """
    generator = torch.Generator().manual_seed(1)
    agreed, overlap, count = torch.zeros(depth), torch.zeros(depth), torch.zeros(depth)
    for group in batches(texts, GROUP_TOKENS, generator):
        tokens, hidden, lengths = stack(group)
        finals = hidden[:, :, -1].flatten(0, 1)
        rows = unrolled(head, tokens, hidden, lengths, depth, 48, generator)
        for at, (features, where) in enumerate(rows):
            target = (finals[where].float() @ head.target.output.T).softmax(dim=-1)
            guess = head.logits(features).softmax(dim=-1)
            agreed[at] += (head.draft_ids[guess.argmax(dim=-1)] == target.argmax(dim=-1)).sum()
            overlap[at] += torch.minimum(guess, target[:, head.draft_ids]).sum()
            count[at] += len(guess)
    return [
        {"depth": at + 1, "greedy": float(agreed[at] / count[at]), "overlap": float(overlap[at] / count[at])}
        for at in range(depth)
        if count[at]
    ]
