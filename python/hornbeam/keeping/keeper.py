"""What the decoding loop asks of a recipe: rows to watch, drafts to cut, and reductions at commits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

import numpy as np
import torch

from hornbeam.errors import ArgumentError
from hornbeam.keep.rotate import inverse_frequencies
from hornbeam.keep.score import ExpectedAttention, Score, ValueWeighted
from hornbeam.keep.when import AfterPrefill, Moment, OnPressure
from hornbeam.keeping.reduction import Reduction
from hornbeam.keeping.scoring import Scoring
from hornbeam.keeping.state import Inputs, State, Take
from hornbeam.keeping.watch import Watch
from hornbeam.sequence import SHARED_PREFIX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hornbeam.keep.recipe import Recipe
    from hornbeam.lm import LM
    from hornbeam.sequence import Sequence
    from hornbeam.tree import Step

__all__ = ["Keeper"]


class Keeper:
    """Runs one recipe for the sequences of one call."""

    def __init__(self, lm: LM, recipe: Recipe) -> None:
        self.lm = lm
        self.tree = lm.tree
        self.recipe = _fitted(lm, recipe)
        self.repeats = not isinstance(self.recipe.when, AfterPrefill)
        self.scoring = Scoring(lm, self.recipe.score, self.repeats)
        if self.is_press and self.repeats:
            raise ArgumentError("a press reads the hidden states of a prompt, expected when=AfterPrefill()")
        self.reduction = Reduction(lm, self.recipe)
        self.states: dict[int, State] = {}
        #: Where a caller sets it: positions that each plane showed after the last reduction, by sequence.
        self.record: dict[int, list[NDArray[np.int32]]] | None = None
        self._ready: list[Sequence] = []

    @property
    def is_press(self) -> bool:
        """Whether the score reads what attention modules are given."""
        return self.scoring.is_press

    def reusable(self, num_tokens: int) -> int:
        """Tokens of a prompt whose rows need not be computed: those whose queries nobody asks for."""
        if self.scoring.moments_of is not None or self.is_press:
            return 0
        first = max(num_tokens - self.scoring.window, 0)
        return min([first, *self.scoring.others(num_tokens)]) if self.scoring.adds_mass else first

    def room(self, sequence: Sequence) -> int | None:
        """The most tokens that a draft may have: a commit ends where a reduction is due, so that the text
        is that of decoding without drafts."""
        count = getattr(self.recipe.when, "count", None)
        return None if count is None else max(count - self.states[sequence.index].since - 1, 0)

    def watch(self, step: Step, sequences: Seq[Sequence]) -> Watch | None:
        """The observer of a step, if any query is wanted. The requests of the step are those of the
        sequences, in order."""
        takes = []
        for own, sequence in zip(step.rows, sequences, strict=True):
            state = self.states.setdefault(sequence.index, State(self.tree.device))
            takes.append(self._take(state, sequence, own, step))
        wanted = (len(take.index) or take.mass is not None or len(take.all_rows) for take in takes)
        if not any(wanted):
            return None
        return Watch(self.tree, takes, self.scoring.rules, self.scoring.is_plain_only)

    def _take(self, state: State, sequence: Sequence, own: NDArray[np.int64], step: Step) -> Take:
        begin = sequence.branch.length
        if state.prefilled:
            # A draft may be a tree: positions follow once it is known which rows stay.
            wanted = own if self.scoring.wants_rows else own[:0]
            return Take(state, torch.from_numpy(wanted.copy()), np.empty(0, np.int32))
        positions = np.arange(begin, begin + len(own), dtype=np.int32)
        stay = positions >= begin + len(own) - self.scoring.window
        if self.scoring.moments_of is not None:
            stay[:] = True
        take = Take(state, torch.from_numpy(own[stay]), positions[stay])
        if self.is_press:
            take.all_rows = torch.from_numpy(own.copy())
        if self.scoring.adds_mass:
            take.mass = self.scoring.mass_take(state, sequence, own, step)
        return take

    def on_prefill(self, watch: Watch | None, sequences: Seq[Sequence], waiting: Seq[Sequence]) -> None:
        """A step of prompts was committed. Reduces the sequences whose prompt is complete, unless one that
        is ``waiting`` would take up what they hold of its own prompt: those have their turn later."""
        for i, sequence in enumerate(sequences):
            state = self.states.setdefault(sequence.index, State(self.tree.device))
            if watch is not None:
                take = watch.takes[i]
                if take.layers:
                    self.scoring.remember(state, take.positions, torch.stack(take.layers))
                for layer, inputs in take.inputs.items():
                    known = state.inputs.setdefault(layer, Inputs(inputs.module))
                    known.hidden.extend(inputs.hidden)
                    known.rotary.extend(inputs.rotary)
                if take.mass is not None:
                    state.mass, state.length = take.mass.sums, sequence.branch.length
                    state.mass_rows.extend(take.mass.positions.tolist())
            state.added = sequence.branch.length
            state.prefilled = sequence.branch.length == len(sequence.prompt)
            if state.prefilled:
                self._ready.append(sequence)
            elif isinstance(self.recipe.when, OnPressure) and self._is_due(state, False):
                self._reduce(sequence, state)
        later = []
        for sequence in self._ready:
            if sequence.is_closed:
                continue
            if any(_shares(sequence.prompt, other.prompt) for other in waiting):
                later.append(sequence)
            elif self._is_due(self.states[sequence.index], True):
                self._reduce(sequence, self.states[sequence.index])
        self._ready = later

    def on_commit(self, watch: Watch | None, sequences: Seq[Sequence], paths: Seq[list[int]]) -> None:
        """A step of decoding was committed: ``paths`` are the rows of each request that stayed."""
        for i, (sequence, path) in enumerate(zip(sequences, paths, strict=True)):
            state = self.states[sequence.index]
            state.since += len(path)
            end = sequence.branch.length
            if watch is not None and watch.takes[i].layers:
                rows = torch.stack(watch.takes[i].layers)[:, :, path]
                positions = np.arange(end - len(path), end, dtype=np.int32)
                self.scoring.remember(state, positions, rows)
            if not sequence.is_ending and self._is_due(state, False):
                self._reduce(sequence, state)
            else:
                self.scoring.add_stretch(sequence, state, whole=True)

    def forget(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        self.states.pop(sequence.index, None)

    def _is_due(self, state: State, prefilled: bool) -> bool:
        held = 0
        if isinstance(self.recipe.when, OnPressure):
            stats = self.tree.stats()
            used = stats["slabs"] - stats["free_slabs"] - stats["cached_slabs"]
            held = used * self.tree.slab_bytes
        return self.recipe.when.due(Moment(prefilled, state.since, held, self.tree.max_bytes))

    def _reduce(self, sequence: Sequence, state: State) -> None:
        self.scoring.add_stretch(sequence, state, whole=False)
        state.since = 0
        positions = self.reduction.run(sequence, state, self.scoring)
        if self.record is not None and positions is not None:
            self.record[sequence.index] = positions


def _fitted(lm: LM, recipe: Recipe) -> Recipe:
    """The recipe with what it needs to know of the model."""
    found = inverse_frequencies(lm.model)
    if recipe.rerotate and found is None:
        raise ArgumentError("rerotate is True, expected a model with plain rotary embeddings")
    if found is not None and 2 * len(found) == lm.runner.shape.head_dim:
        return dataclasses.replace(recipe, score=_rotated(recipe.score, found))
    return recipe


def _rotated(score: Score, frequencies: tuple[float, ...]) -> Score:
    """The score with the model's frequencies, where it asks for them."""
    if isinstance(score, ValueWeighted):
        return dataclasses.replace(score, score=_rotated(score.score, frequencies))
    if isinstance(score, ExpectedAttention) and score.inverse_frequencies is None:
        return dataclasses.replace(score, inverse_frequencies=frequencies)
    return score


def _shares(a: list[int], b: list[int]) -> bool:
    """Whether two prompts begin alike for so long that one would reuse the other's pages."""
    return a[:SHARED_PREFIX] == b[:SHARED_PREFIX]
