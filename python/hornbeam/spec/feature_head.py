"""Drafts by a small head over the target's hidden states."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from math import inf
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError
from hornbeam.spec.growth import Grown, Node, Shape
from hornbeam.spec.head import PREFILL_ROWS, Head, HeadFile
from hornbeam.spec.protocols import Ask, Law, Outcome, Run
from hornbeam.spec.shape import BestFirst
from hornbeam.spec.shaped import Shaped

if TYPE_CHECKING:
    from hornbeam.lm import LM
    from hornbeam.tree import Branch

__all__ = ["FeatureHead", "FeatureProposer"]

# The head that comes with the default model.
SHIPPED = "smollm2-135m.safetensors"

# Which files are heads for which models.
_fits: WeakKeyDictionary[LM, dict[Path, bool]] = WeakKeyDictionary()

# Rows that are read with an ordinary guess: what a step commits. More are a prompt, or a long silence.
ORDINARY_ROWS = 16
# Before a row was timed.
SOME_SECONDS = 1e-6


@dataclass(frozen=True)
class FeatureHead:
    """A one-layer head that guesses from the target's hidden states (EAGLE, Li et al. 2024; EAGLE-3, Li
    et al. 2025), so that a guess costs a few per cent of a forward pass.

    We differ from EAGLE-3 in that both inputs are fused into the residual, as EAGLE has it, that siblings
    may be drawn and verified by a ratio test, and that the head's keys and values are a prefix tree of
    their own: a prompt that was read once is not read again. See :class:`hornbeam.spec.head.Head`.

    Args:
        weights: a safetensors file that ``scripts/train_feature_head.py`` wrote; None is the head of the
            default model, which comes with the package.
        shape: the tree that is drafted.
        temperature: of the head's law, as a factor to the run's: below 1 it guesses with more confidence
            than it was trained to have. Any value is exact, since a token is verified against the law that
            it was drawn from; which accepts most is a matter of measurement (docs/decoding.md).

    Raises:
        ArgumentError: if the temperature is not positive; when a run begins, if the file is no feature head.
        UnsupportedModel: when a run begins, if the head was trained for another model.
    """

    weights: str | PathLike[str] | None = None
    shape: Shape = field(default_factory=lambda: BestFirst(size=12, width=3, depth=3))
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < inf:
            raise ArgumentError(f"temperature is {self.temperature}, expected a positive number")

    @property
    def path(self) -> Path:
        """The file of the weights."""
        if self.weights is not None:
            return Path(self.weights).expanduser()
        return Path(str(files("hornbeam") / "heads" / SHIPPED))

    @property
    def law(self) -> Law:
        """That of the shape."""
        return self.shape.law

    def fits(self, lm: LM) -> bool:
        """Whether the head was trained for this model. Reads the file once a model."""
        known = _fits.setdefault(lm, {})
        if (path := self.path.resolve()) not in known:
            known[path] = HeadFile.load(path).mismatch(lm) is None
        return known[path]

    def open(self, run: Run) -> FeatureProposer:
        """Loads the weights, once a model, and begins a run."""
        path, heads = self.path.resolve(), run.lm.recalled
        if path not in heads:
            heads[path] = Head(HeadFile.load(path), run.lm)
        return FeatureProposer(run, heads[path], self.shape, self.temperature)


@dataclass
class _Reader:
    """What the head knows of one sequence: its rows so far, and the committed tokens and their states
    that are to become rows."""

    branch: Branch
    labels: list[int] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)


class FeatureProposer(Shaped):
    """:class:`FeatureHead` at work on all sequences of one run."""

    def __init__(self, run: Run, head: Head, shape: Shape, temperature: float = 1.0) -> None:
        super().__init__(run, shape)
        self.head = head
        self.temperature = temperature
        self.hidden_layers = head.taps
        self._readers: dict[int, _Reader] = {}
        # Of the draft that grows: the branches that end with a node, and the head's outputs there.
        self._branches: dict[Node, Branch] = {}
        self._outputs: dict[Node, Tensor] = {}

    def start(self, index: int, prompt_ids: Sequence[int]) -> int:
        """Takes up what the head has read of the prompt. A row is labelled with its token and holds the
        next one too, so the last label that matches may stand for another row."""
        tree = self.head.tree
        known = tree.match(prompt_ids)
        branch = tree.match(prompt_ids, max_tokens=max(known.length - 1, 0))
        known.release()
        self._readers[index] = _Reader(branch)
        return branch.length

    def propose(self, asks: Sequence[Ask]) -> list[Grown]:
        """One tree for each ask."""
        try:
            return super().propose(asks)
        finally:
            # Leaves first: a node whose last child is gone takes its tokens back.
            for node, branch in reversed(self._branches.items()):
                if node.token >= 0:
                    branch.release(keep=False)
            self._branches.clear()
            self._outputs.clear()

    def expand(self, nodes: Sequence[Node]) -> Tensor:
        """The head's logits after each node, over its temperature."""
        self._read([node for node in nodes if node.token < 0])
        self._guess([node for node in nodes if node.token >= 0])
        self.states = torch.stack([self._outputs[node] for node in nodes])
        logits = self.head.logits(self.states)
        return logits if self.temperature == 1 else logits / self.temperature

    def signature(self) -> Tensor:
        """Some of the head's own weights."""
        return self.head.fuse[:: max(len(self.head.fuse) // 8, 1), :8].flatten().float().cpu()

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Keeps the hidden states of what was committed until the head reads them."""
        super().observe(outcomes)
        for outcome in outcomes:
            reader, hidden = self._readers[outcome.index], outcome.hidden
            assert hidden is not None, "the run brings no hidden states"
            reader.labels += outcome.committed
            reader.states.append(hidden if len(outcome.kept) == len(hidden) else hidden[outcome.kept])

    def arrears(self, index: int) -> float:
        """Seconds that reading will take before the next guess, where there is more to read than a step
        commits."""
        rows = sum(len(states) for states in self._readers[index].states)
        return rows * (self.head.row_seconds or SOME_SECONDS) if rows > ORDINARY_ROWS else 0.0

    def finish(self, index: int) -> None:
        """Keeps what was read of the sequence for later prompts."""
        super().finish(index)
        if (reader := self._readers.pop(index, None)) is not None:
            reader.branch.release()

    def _read(self, roots: Sequence[Node]) -> None:
        """Makes rows of what was committed since: the last one guesses what follows the pending token."""
        requests: list[tuple[Branch, list[int], list[int]]] = []
        features = []
        begin, num_rows = time.perf_counter(), 0
        for node in roots:
            ask = self.growing[node.tree].ask
            reader = self._readers[ask.index]
            # The target may have computed some prompt tokens that the head has read before.
            skip = reader.branch.length - (ask.position - 1 - len(reader.labels))
            labels = reader.labels[skip:]
            tokens = [*labels[1:], ask.pending]
            states = torch.cat(reader.states)[skip:]
            reader.labels, reader.states = [], []
            num_rows += len(labels)
            while len(labels) > PREFILL_ROWS:
                part = (reader.branch, labels[:PREFILL_ROWS], tokens[:PREFILL_ROWS])
                self.head.forward([part], self.head.read(states[:PREFILL_ROWS]))
                labels, tokens, states = labels[PREFILL_ROWS:], tokens[PREFILL_ROWS:], states[PREFILL_ROWS:]
            requests.append((reader.branch, labels, tokens))
            features.append(self.head.read(states))
            self._branches[node] = reader.branch
        if requests:
            output = self.head.forward(requests, torch.cat(features))
            end = 0
            for node, (_, labels, _) in zip(roots, requests, strict=True):
                end += len(labels)
                self._outputs[node] = output[end - 1]
            if num_rows > ORDINARY_ROWS * len(roots):
                self.head.row_seconds = (time.perf_counter() - begin) / num_rows

    def _guess(self, nodes: Sequence[Node]) -> None:
        """Makes rows of drafted tokens, on the outputs of the rows before."""
        requests, features = [], []
        for node in nodes:
            tree = self.growing[node.tree]
            parent = Node(node.tree, tree.parents[node.token])
            branch = self._branches[node] = self._branches[parent].fork()
            token = tree.tokens[node.token]
            requests.append((branch, [token], [token]))
            features.append(self._outputs[parent])
        if requests:
            output = self.head.forward(requests, torch.stack(features))
            self._outputs.update(zip(nodes, output, strict=True))
