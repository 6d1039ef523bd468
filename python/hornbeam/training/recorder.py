"""Lets the model write, and keeps what it wrote with its hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from hornbeam.errors import UnsupportedModel
from hornbeam.speculation import Fixed, Signals
from hornbeam.training.target import HeadTarget

if TYPE_CHECKING:
    from hornbeam.lm import LM

__all__ = ["TEMPERATURES", "Recorder", "record"]

#: Of the batches, in turn.
TEMPERATURES = (1.0, 0.0, 1.0, 0.7)


@dataclass
class _Record:
    """One sequence: its prompt, and the tokens that were computed so far, with their states."""

    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)


class _Nothing:
    """A draft of no tokens."""

    tokens: ClassVar[list[int]] = []
    signals = Signals([])


class Recorder:
    """A draft source that guesses nothing and keeps every outcome, of a call that begins with an empty
    cache.

    Args:
        taps: layers whose hidden states are kept, the last one last.
        target: of the model.
        show: is told after each pass how many tokens were written.
    """

    def __init__(self, taps: tuple[int, ...], target: HeadTarget, show: Callable[[int], Any]) -> None:
        self.hidden_layers = taps
        self.target = target
        self.show = show
        self._num_written = 0
        self._records: dict[int, _Record] = {}
        # Those of requests that were begun anew, too: others may have taken up what they computed.
        self._all: list[_Record] = []
        self._has_looked = False

    @property
    def records(self) -> list[_Record]:
        """One a sequence, in the order of the prompts."""
        return [self._records[index] for index in sorted(self._records)]

    def open(self, run: Any) -> Recorder:
        """Begins a run."""
        return self

    def start(self, index: int, prompt_ids: Sequence[int]) -> None:
        """Begins a sequence, or begins it anew with what was written of it."""
        self._records[index] = _Record(list(prompt_ids))
        self._all.append(self._records[index])

    def propose(self, asks: Sequence[Any]) -> list[Any]:
        """Nothing."""
        return [_Nothing() for _ in asks]

    def observe(self, outcomes: Sequence[Any]) -> None:
        """Keeps the committed tokens of a pass and their states.

        Raises:
            UnsupportedModel: the model's logits are not what a head takes them for.
        """
        for outcome in outcomes:
            record = self._records[outcome.index]
            if not record.tokens and outcome.position:
                # What a prompt shares with one before it was computed for that one.
                shared = record.prompt[: outcome.position]
                donor = next(other for other in self._all if other.tokens[: len(shared)] == shared)
                record.tokens += shared
                record.states.append(torch.cat(donor.states)[: len(shared)])
            record.tokens += outcome.committed
            record.states.append(outcome.hidden[outcome.kept].cpu())
            if outcome.logits is not None and not self._has_looked:
                self._has_looked = True
                self.target.check_logits(outcome.hidden[:, -1], outcome.logits)
            self._num_written += 0 if outcome.is_prompt else len(outcome.kept)
        self.show(self._num_written)

    def finish(self, index: int) -> None:
        """Keeps what there is of the sequence."""


def record(
    lm: LM,
    target: HeadTarget,
    prompts: Sequence[Sequence[int]],
    *,
    taps: tuple[int, ...],
    temperature: float,
    seed: int,
    tokens: int,
    show: Callable[[int], Any],
) -> dict[str, Tensor]:
    """One batch of texts.

    Args:
        lm: the model. Its cache is cleared.
        target: of the model.
        prompts: as token ids; the model answers them together.
        taps: layers whose hidden states are kept, the model's last one last.
        temperature: that answers are sampled with; 0 is greedy.
        seed: of the answers.
        tokens: of an answer, at most.
        show: is told after each pass how many tokens were written.

    Returns:
        ``tokens`` (int32, all sequences one after the other), ``offsets`` (int64, where each begins, and the
        end), ``prompt_lengths`` (int64) and ``hidden`` (float16 ``[tokens, taps, H]``). The states of the
        last tap are as they are, those of the others over their root mean square. The last token of a
        sequence never was a row and has no states: its row is 0.

    Raises:
        UnsupportedModel: the model's logits are not what a head takes them for, or its states do not fit.
        KeyboardInterrupt: the model was interrupted.
    """
    lm.clear_cache()
    recorder = Recorder(taps, target, show)
    outs = lm.generate(
        [list(prompt) for prompt in prompts],
        max_new_tokens=tokens,
        draft=recorder,
        length=Fixed(0),
        temperature=temperature,
        seed=seed,
    )
    if any(out.finish_reason == "interrupted" for out in outs):
        raise KeyboardInterrupt
    written: list[int] = []
    states, offsets, prompt_lengths = [], [0], []
    for own, out in zip(recorder.records, outs, strict=True):
        rows, last = torch.cat(own.states), list(out.token_ids[-1:])
        assert len(rows) == len(own.tokens), (len(rows), len(own.tokens))
        written += own.tokens + last
        states += [rows, torch.zeros_like(rows[: len(last)])]
        prompt_lengths.append(len(own.tokens) + len(last) - len(out.token_ids))
        offsets.append(len(written))
    return {
        "tokens": torch.tensor(written, dtype=torch.int32),
        "offsets": torch.tensor(offsets, dtype=torch.int64),
        "prompt_lengths": torch.tensor(prompt_lengths, dtype=torch.int64),
        "hidden": _stored(torch.cat(states).float()),
    }


def _stored(hidden: Tensor) -> Tensor:
    """States ``[n, taps, H]`` in float16. A head takes those of the middle layers over their root mean
    square, without which some models' are beyond that type."""
    middle = rms_norm(hidden[:, :-1], (hidden.shape[-1],), eps=torch.finfo(torch.float32).tiny)
    found = torch.cat([middle, hidden[:, -1:]], dim=1).half()
    if not bool(found.isfinite().all()):
        raise UnsupportedModel("a hidden state of the model is beyond float16, in which texts are recorded")
    return found
