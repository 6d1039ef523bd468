"""How heads are trained: every number that decides what comes out, and how long it may take."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from math import inf
from typing import Any

from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number

__all__ = [
    "LABELS_SHARE",
    "MINUTES",
    "RECORDING_SHARE",
    "STEPS_SHARE",
    "VOCABULARY",
    "AcceptanceTraining",
    "HeadTraining",
]

#: Of a training that is given neither minutes nor steps.
MINUTES = 60.0
#: Tokens that a head can guess, where nothing else is said.
VOCABULARY = 6144

# Of its minutes: the model writes until this share is over, and gradient steps end at that one.
RECORDING_SHARE, STEPS_SHARE, LABELS_SHARE = 0.4, 0.9, 0.95


def _require_share(value: float, name: str) -> None:
    if not 0 <= value <= 1:
        raise ArgumentError(f"{name} is {value}, expected 0 to 1")


def _require_positive(value: float, name: str) -> None:
    if not 0 < value < inf:
        raise ArgumentError(f"{name} is {value}, expected a positive number")


@dataclass(frozen=True)
class AcceptanceTraining:
    """How an acceptance head is trained: SpecDec++ (Huang et al. 2024, arXiv:2405.19715, section 4.2).

    Args:
        depth: tokens in a row that the feature head guesses at each place.
        rows: places of a text where it does.
        texts: recorded texts at most.
        mixing: the share of guesses that the recorded token takes the place of.
        refusal_weight: how often a refusal counts in the loss.
        width: numbers of a hidden layer.
        blocks: residual blocks.
        epochs: passes over the labels.
        batch: labels of a gradient step.
        rate: the greatest learning rate.
        weight_decay: of AdamW.

    Raises:
        ArgumentError: a value is out of range.
    """

    depth: int = 4
    rows: int = 24
    texts: int = 240
    mixing: float = 0.15
    refusal_weight: float = 6.0
    width: int = 128
    blocks: int = 3
    epochs: int = 6
    batch: int = 256
    rate: float = 1e-3
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        for name in ("depth", "rows", "texts", "width", "epochs", "batch"):
            whole_number(getattr(self, name), name, 1)
        whole_number(self.blocks, "blocks", 0)
        _require_share(self.mixing, "mixing")
        if self.mixing == 1:
            raise ArgumentError("mixing is 1, expected less: recorded tokens have no label")
        for name in ("refusal_weight", "rate"):
            _require_positive(getattr(self, name), name)
        if not 0 <= self.weight_decay < inf:
            raise ArgumentError(f"weight_decay is {self.weight_decay}, expected 0 or more")


@dataclass(frozen=True)
class HeadTraining:
    """How a feature head and its acceptance head are trained.

    The budget is either a time or a number of gradient steps. Of a time the model writes its texts in the
    first two fifths at most, and gradient steps of the feature head end after nine tenths; what comes out
    depends on how fast the machine is. With ``steps`` it depends on the seed alone.

    Args:
        minutes: of the whole training; 60 if ``steps`` is left out too.
        steps: gradient steps of the feature head, in place of a time.
        seed: of everything that is drawn at random.
        prompts: that the model answers, at most.
        batch: prompts that it answers together.
        tokens: of an answer, at most.
        taps: layers whose hidden states the head reads, ascending; the last must be the model's last. By
            default four, at a tenth, a half, nine tenths and the whole of the model's depth.
        vocabulary: tokens that the head can guess, the most frequent ones; 6,144 by default.
        inner: width of its feed-forward layer; that of the model's by default.
        step_tokens: tokens of a gradient step, about.
        rate: the greatest learning rate.
        unroll: guesses in a row that the loss counts.
        continued: rows of a text where more than one guess is made.
        decay: what each further guess counts in the loss, as a factor.
        every: gradient steps between two measurements, after each of which the state is kept.
        held_out: texts that are measured in between; at the end all of every twentieth are.
        acceptance: how the acceptance head is trained.

    Raises:
        ArgumentError: a value is out of range, or both ``minutes`` and ``steps`` are given.
    """

    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    prompts: int = 576
    batch: int = 64
    tokens: int = 224
    taps: tuple[int, ...] | None = None
    vocabulary: int | None = None
    inner: int | None = None
    step_tokens: int = 2560
    rate: float = 2e-3
    unroll: int = 3
    continued: int = 48
    decay: float = 0.8
    every: int = 20
    held_out: int = 10
    acceptance: AcceptanceTraining = field(default_factory=AcceptanceTraining)

    def __post_init__(self) -> None:
        if self.minutes is not None and self.steps is not None:
            raise ArgumentError("minutes and steps are both given, expected one of them")
        if self.minutes is not None:
            _require_positive(self.minutes, "minutes")
        if self.steps is not None:
            whole_number(self.steps, "steps", 0)
        whole_number(self.seed, "seed", 0, (1 << 64) - 1)
        whole_number(self.prompts, "prompts", 2)
        for name in ("batch", "tokens", "step_tokens", "unroll", "continued", "every", "held_out"):
            whole_number(getattr(self, name), name, 1)
        for name in ("vocabulary", "inner"):
            if getattr(self, name) is not None:
                whole_number(getattr(self, name), name, 1)
        _require_positive(self.rate, "rate")
        _require_share(self.decay, "decay")

    @property
    def seconds(self) -> float | None:
        """Of the whole training; None where steps are counted."""
        return None if self.steps is not None else 60 * (self.minutes or MINUTES)

    @property
    def budget(self) -> dict[str, float | int | None]:
        """What another run over the same texts may have otherwise, so that it goes on where one ended."""
        seconds = self.seconds
        return {"minutes": None if seconds is None else seconds / 60, "steps": self.steps}

    @property
    def identity(self) -> dict[str, Any]:
        """All that a run has to share with one that it goes on from."""
        passing = ("minutes", "steps", "every", "held_out", "acceptance")
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in passing}
        return own | {"taps": None if self.taps is None else list(self.taps)}

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | self.budget
