"""Drafts by a small head over the target's hidden states."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from hornbeam._native import Signals
from hornbeam.errors import ArgumentError, OutOfPages
from hornbeam.speculation.draft.head_network import (
    LABELS,
    PREFILL_ROWS,
    TAIL_ROWS,
    Head,
    HeadFile,
    Rows,
    labels_of,
)
from hornbeam.speculation.draft.model_proposer import ModelProposer
from hornbeam.speculation.head_file import FEATURE_HEAD, path_of
from hornbeam.speculation.protocols import Ask, Law, Outcome, Run
from hornbeam.speculation.rule import is_ratio_test
from hornbeam.speculation.shape import BestFirst
from hornbeam.speculation.tree_building import DraftTree, Node, Shape

if TYPE_CHECKING:
    from hornbeam.cache.tree import Branch
    from hornbeam.speculation.protocols import Target

__all__ = ["FeatureHead", "FeatureProposer"]

# The head that comes with the default model.
SHIPPED = "smollm2-135m.safetensors"

# Why files are no heads for models, or None where they are; of the model as it was after so many changes.
_reasons: WeakKeyDictionary[Target, tuple[int, dict[Path, str | None]]] = WeakKeyDictionary()

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
    their own: a prompt that was read once is not read again. Where the model's tree holds a prefix whose
    states the head has not seen, the head begins after it: its attention lacks these keys, and the prefix
    is not computed again for its sake. See :class:`hornbeam.speculation.draft.head_network.Head`.

    Args:
        weights: a folder that ``hornbeam train-head`` wrote, or the feature head in it; None is the head of
            the default model, which comes with the package.
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
        return path_of(self.weights, FEATURE_HEAD, SHIPPED)

    @property
    def _key(self) -> Path:
        """The same for all ways to name a file."""
        return self.path if self.weights is None else self.path.resolve()

    @property
    def law(self) -> Law:
        """That of the shape."""
        return self.shape.law

    def mismatch(self, target: Target) -> str | None:
        """Why the head cannot draft for the model as it is now, if it cannot. Compares once a change of the
        model.

        Args:
            target: the model, an :class:`hornbeam.LM` or its engine.
        """
        changes, known = _reasons.get(target, (-1, {}))
        if changes != target.runner.changes:
            known = {}
            _reasons[target] = (target.runner.changes, known)
        if (path := self._key) not in known:
            known[path] = HeadFile.load(path).mismatch(target)
        return known[path]

    def open(self, run: Run) -> FeatureProposer:
        """Loads the weights, once a model, and begins a run."""
        path, heads = self._key, run.target.recalled
        if path not in heads:
            heads[path] = Head(HeadFile.load(path), run.target)
        return FeatureProposer(run, heads[path], self.shape, self.temperature)


@dataclass
class _Reader:
    """What the head knows of one sequence: its rows so far, and the states of the committed tokens that
    are to become rows."""

    prompt: Sequence[int]
    #: What was committed, from the first token on; empty before a forward pass was seen.
    text: list[int] = field(default_factory=list)
    #: Of the text's first token that is to become a row.
    position: int = 0
    #: Those of ``text[position:]``, in parts.
    states: list[Tensor] = field(default_factory=list)
    #: The rows so far; None until the first are made.
    branch: Branch | None = None
    #: Tokens before ``position`` that have no row.
    gap: int = 0
    #: Whether the next row is the first after the gap.
    is_after_gap: bool = False
    was_tried: bool = False
    #: Whether a fork reads the same text and states, so that they are copied before the next change.
    is_shared: bool = False

    def fork(self) -> _Reader:
        """A reader that goes on from here. What was committed is shared until one of both adds to it."""
        self.is_shared = True
        return replace(self, branch=None if self.branch is None else self.branch.fork())

    def add(self, tokens: Sequence[int], states: Tensor) -> None:
        """Appends committed tokens, and the states of their rows."""
        if self.is_shared:
            self.text, self.states, self.is_shared = list(self.text), list(self.states), False
        self.text += tokens
        self.states.append(states)

    @property
    def num_unread(self) -> int:
        """Tokens that are to become rows."""
        return len(self.text) - self.position


class FeatureProposer(ModelProposer):
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

    def start(self, index: int, prompt_ids: Sequence[int]) -> None:
        """Begins a sequence. What the head has read of its prompt is taken up with the first guess."""
        self._readers[index] = _Reader(prompt_ids)

    def fork(self, index: int, child: int) -> bool:
        """Forks what the head has read of the sequence."""
        self._readers[child] = self._readers[index].fork()
        return True

    def propose(self, asks: Sequence[Ask]) -> list[DraftTree]:
        """One tree for each ask; of no tokens where the head's own memory is full."""
        try:
            return super().propose(asks)
        except OutOfPages:
            # A ratio test is not told of a tree whose size its draws have decided.
            if is_ratio_test(self.run.rule, self.law, self.run.warp.is_greedy):
                raise
            self.trees.clear()
            return [DraftTree([], Signals([]), []) for _ in asks]
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
            if not reader.text:
                reader.position, reader.text = outcome.position, list(reader.prompt[: outcome.position])
            kept = hidden if len(outcome.kept) == len(hidden) else hidden[outcome.kept]
            reader.add(outcome.committed, kept)

    def arrears(self, index: int) -> float:
        """Seconds that reading will take before the next guess, where there is more to read than a step
        commits."""
        reader = self._readers[index]
        if reader.branch is None and not reader.was_tried and reader.num_unread > ORDINARY_ROWS:
            reader.was_tried = True
            self._take_up(reader)
        rows = reader.num_unread
        return rows * (self.head.row_seconds or SOME_SECONDS) if rows > ORDINARY_ROWS else 0.0

    def finish(self, index: int) -> None:
        """Keeps what was read of the sequence for later prompts, and the last states that were not."""
        super().finish(index)
        if (reader := self._readers.pop(index, None)) is None or reader.branch is None:
            return
        if 0 < reader.num_unread <= TAIL_ROWS and not reader.gap:
            self.head.remember(reader.position, reader.text, torch.cat(reader.states))
        # Rows after a gap stand for a text that is never asked for.
        reader.branch.release(keep=not reader.gap)

    def _take_up(self, reader: _Reader, *, with_gap: bool = False) -> bool:
        """Opens the branch of what the head has read of a prompt, if that reaches to the first state that
        the pass brought, or if there may be a gap; says whether it did."""
        branch = self.head.tree.match(labels_of(reader.prompt, self.head.vocab_size))
        missing = reader.position - branch.length
        tail = self.head.tail(branch.length, reader.prompt) if missing > 0 else None
        if tail is not None and len(tail) >= missing:
            reader.states = [tail[:missing], *reader.states]
            reader.position, missing = branch.length, 0
        if missing > 0 and not with_gap:
            branch.release()
            return False
        reader.branch = branch
        if missing > 0:
            reader.gap, reader.is_after_gap = missing, True
        elif missing < 0:
            # The target has computed tokens that the head has read before.
            reader.states = [torch.cat(reader.states)[-missing:]]
            reader.position = branch.length
        return True

    def _read(self, roots: Sequence[Node]) -> None:
        """Makes rows of what was committed since: the last one guesses what follows the pending token."""
        left = list(roots)
        while left:
            # A prompt of the same step may be the beginning of another: that one reads it first.
            ready = [node for node in left if self._is_taken_up(node)]
            if not ready:
                for node in left:
                    self._take_up(self._reader(node), with_gap=True)
                continue
            self._make_rows(ready)
            left = [node for node in left if node not in ready]

    def _reader(self, node: Node) -> _Reader:
        return self._readers[self.growing[node.tree].ask.index]

    def _is_taken_up(self, node: Node) -> bool:
        reader = self._reader(node)
        return reader.branch is not None or self._take_up(reader)

    def _make_rows(self, roots: Sequence[Node]) -> None:
        requests: list[Rows] = []
        features = []
        begin, num_rows = time.perf_counter(), 0
        for node in roots:
            reader, pending = self._reader(node), self.growing[node.tree].ask.pending
            num_rows += reader.num_unread
            while reader.num_unread > PREFILL_ROWS:
                states = torch.cat(reader.states)
                rows = self._rows(reader, reader.text[reader.position :][: PREFILL_ROWS + 1])
                self.head.forward([rows], self.head.read(states[:PREFILL_ROWS]))
                self._advance(reader, PREFILL_ROWS, states)
            requests.append(self._rows(reader, [*reader.text[reader.position :], pending]))
            features.append(self.head.read(torch.cat(reader.states)))
        output = self.head.forward(requests, torch.cat(features))
        end = 0
        for node, request in zip(roots, requests, strict=True):
            end += len(request.labels)
            self._outputs[node] = output[end - 1]
            self._branches[node] = request.branch
            self._advance(self._reader(node), len(request.labels))
        if num_rows > ORDINARY_ROWS * len(roots):
            self.head.row_seconds = (time.perf_counter() - begin) / num_rows

    def _rows(self, reader: _Reader, tokens: Sequence[int]) -> Rows:
        """Rows of all these tokens but the last."""
        assert reader.branch is not None, "the branch is not open"
        labels = labels_of(tokens, self.head.vocab_size)
        if reader.is_after_gap:
            # No text without the gap has this label.
            labels[0] = hash((reader.gap, *reader.text[: reader.position], *tokens[:2])) % LABELS
        return Rows(reader.branch, labels.tolist(), list(tokens[1:]), reader.gap)

    def _advance(self, reader: _Reader, count: int, states: Tensor | None = None) -> None:
        """So many tokens have become rows."""
        reader.position += count
        reader.is_after_gap = False
        reader.states = [] if states is None else [states[count:]]

    def _guess(self, nodes: Sequence[Node]) -> None:
        """Makes rows of drafted tokens, on the outputs of the rows before."""
        requests, features = [], []
        for node in nodes:
            tree = self.growing[node.tree]
            parent = Node(node.tree, tree.parents[node.token])
            branch = self._branches[node] = self._branches[parent].fork()
            token = tree.tokens[node.token]
            above = tree.ask.pending if parent.token < 0 else tree.tokens[parent.token]
            labels = labels_of([above, token], self.head.vocab_size).tolist()
            requests.append(Rows(branch, labels, [token], self._reader(node).gap))
            features.append(self._outputs[parent])
        if requests:
            output = self.head.forward(requests, torch.stack(features))
            self._outputs.update(zip(nodes, output, strict=True))
