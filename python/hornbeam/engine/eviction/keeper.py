"""What the decoding loop asks of a recipe: rows to watch, drafts to cut, and reductions at commits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from hornbeam.engine.eviction.observer import QueryObserver
from hornbeam.engine.eviction.reduction import Reduction
from hornbeam.engine.eviction.scoring import Scoring
from hornbeam.engine.eviction.state import Inputs, Observed, State
from hornbeam.engine.request_state import SHARED_PREFIX
from hornbeam.errors import ArgumentError
from hornbeam.keep.rotate import inverse_frequencies
from hornbeam.keep.when import CacheState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hornbeam.cache.tree import Step
    from hornbeam.engine.request import Request
    from hornbeam.engine.requests import Requests
    from hornbeam.keep.recipe import Recipe

__all__ = ["Keeper"]


class Keeper:
    """Runs one recipe for the sequences of one call."""

    def __init__(self, engine: Requests, recipe: Recipe) -> None:
        self.engine = engine
        self.tree = engine.tree
        self.recipe = _fitted(engine, recipe)
        self.repeats = self.recipe.when.repeats
        self.scoring = Scoring(engine, self.recipe.score, self.repeats)
        if self.is_press and self.repeats:
            raise ArgumentError("a press reads the hidden states of a prompt, expected when=AfterPrefill()")
        self.reduction = Reduction(engine, self.recipe)
        self.states: dict[int, State] = {}  # by the serial number of the sequence
        #: Where a caller sets it: positions that each plane showed after the last reduction, by sequence.
        self.record: dict[int, list[NDArray[np.int32]]] | None = None
        self._ready: list[Request] = []
        self._broken: set[int] = set()  # whose state is being changed

    @property
    def is_press(self) -> bool:
        """Whether the score reads what attention modules are given."""
        return self.scoring.is_press

    def reusable(self, num_tokens: int) -> int:
        """Tokens of a prompt whose rows need not be computed: those whose queries nobody asks for."""
        if self.scoring.moments is not None or self.is_press:
            return 0
        first = max(num_tokens - self.scoring.window, 0)
        return min([first, *self.scoring.others(num_tokens)]) if self.scoring.adds_mass else first

    def room(self, sequence: Request) -> int | None:
        """The most tokens that a draft may have: a commit ends where a reduction is due, so that the text
        is that of decoding without drafts."""
        period = self.recipe.when.period
        return None if period is None else max(period - self.states[sequence.serial].since - 1, 0)

    def watch(
        self, step: Step, rows: Seq[NDArray[np.int64]], sequences: Seq[Request]
    ) -> QueryObserver | None:
        """The observer of a step, if any query of these sequences is wanted, whose rows these are."""
        takes = []
        for own, sequence in zip(rows, sequences, strict=True):
            state = self.states.setdefault(sequence.serial, State(self.tree.device))
            takes.append(self._take(state, sequence, own, step))
        wanted = (len(take.index) or take.mass is not None or len(take.all_rows) for take in takes)
        if not any(wanted):
            return None
        return QueryObserver(self.tree, takes, self.scoring.rules, self.scoring.is_plain_only)

    def _take(self, state: State, sequence: Request, own: NDArray[np.int64], step: Step) -> Observed:
        begin = sequence.branch.length
        if state.prefilled:
            # A draft may be a tree: positions follow once it is known which rows stay.
            wanted = own if self.scoring.wants_rows else own[:0]
            return Observed(state, torch.from_numpy(wanted.copy()), np.empty(0, np.int32))
        positions = np.arange(begin, begin + len(own), dtype=np.int32)
        stay = positions >= begin + len(own) - self.scoring.window
        if self.scoring.moments is not None:
            stay[:] = True
        take = Observed(state, torch.from_numpy(own[stay]), positions[stay])
        if self.is_press:
            take.all_rows = torch.from_numpy(own.copy())
        if self.scoring.adds_mass:
            take.mass = self.scoring.mass_take(state, sequence, own, step)
        return take

    def on_step(
        self,
        watch: QueryObserver | None,
        sequences: Seq[Request],
        paths: Seq[list[int]],
        waiting: Seq[Request],
    ) -> None:
        """A step was committed. What fails ends the sequence whose keys it is about, and no other: all have
        their tokens already.

        Args:
            watch: what :meth:`watch` gave for it.
            sequences: those of its sequences that this keeper serves.
            paths: the rows of each that stayed.
            waiting: all whose prompts are not read to the end.
        """
        for i, (sequence, path) in enumerate(zip(sequences, paths, strict=True)):
            seen = None if watch is None else watch.takes[i]
            with self._changing(sequence):
                if sequence.is_read or self._has_decoded(sequence):
                    self._on_decoding(seen, sequence, path)
                else:
                    self._on_prompt(seen, sequence)
        for sequence in list(self._ready):
            self.settle(sequence, waiting)

    def _has_decoded(self, sequence: Request) -> bool:
        """Whether what it reads as its prompt is what another has written."""
        state = self.states.get(sequence.serial)
        return state is not None and state.prefilled

    def _on_prompt(self, seen: Observed | None, sequence: Request) -> None:
        """Some of its prompt was committed."""
        state = self.states.setdefault(sequence.serial, State(self.tree.device))
        if seen is not None:
            if seen.layers:
                self.scoring.remember(state, seen.positions, torch.stack(seen.layers))
            for layer, inputs in seen.inputs.items():
                known = state.inputs.setdefault(layer, Inputs(inputs.module))
                known.hidden.extend(inputs.hidden)
                known.rotary.extend(inputs.rotary)
            if seen.mass is not None:
                state.mass, state.length = seen.mass.sums, sequence.branch.length
                state.mass_rows.extend(seen.mass.positions.tolist())
        state.added = state.num_seen = sequence.branch.length
        state.prefilled = sequence.branch.length == len(sequence.prompt)
        if state.prefilled:
            self._ready.append(sequence)
        elif self.recipe.when.within_prompt and self._is_due(state, False):
            self._reduce(sequence, state)

    def settle(self, sequence: Request, waiting: Seq[Request]) -> None:
        """Reduces a sequence that :meth:`is_awaiting`, unless one that is ``waiting`` would take up what it
        holds of its own prompt: then its turn is later."""
        if not self.is_awaiting(sequence):
            return
        if not sequence.is_closed:
            if any(_shares(sequence.prompt, other.prompt) for other in waiting):
                return
            with self._changing(sequence):
                state = self.states[sequence.serial]
                if self._is_due(state, True):
                    self._reduce(sequence, state)
        self._ready = [other for other in self._ready if other is not sequence]

    @contextmanager
    def _changing(self, sequence: Request) -> Iterator[None]:
        """While it lasts, what is known of a sequence changes: an interrupt leaves it broken."""
        self._broken.add(sequence.serial)
        try:
            yield
        except Exception as error:
            sequence.fail(error)
        self._broken.discard(sequence.serial)

    def _on_decoding(self, seen: Observed | None, sequence: Request, path: list[int]) -> None:
        """Some of its tokens were committed: the rows of ``path``."""
        state = self.states[sequence.serial]
        state.since += len(path)
        end = state.num_seen = sequence.branch.length
        # Another sequence of the step may have asked for its queries, and this one for none.
        if seen is not None and seen.layers and len(seen.index):
            rows = torch.stack(seen.layers)[:, :, path]
            positions = np.arange(end - len(path), end, dtype=np.int32)
            self.scoring.remember(state, positions, rows)
        if not sequence.is_ending and self._is_due(state, False):
            self._reduce(sequence, state)
        else:
            self.scoring.add_stretch(sequence, state, whole=True)

    def is_awaiting(self, sequence: Request) -> bool:
        """Whether the sequence is to be reduced before it decodes."""
        return any(other is sequence for other in self._ready)

    def is_broken(self, sequence: Request) -> bool:
        """Whether an interrupt has left what is known of the sequence behind its branch."""
        state = self.states.get(sequence.serial)
        is_behind = state is not None and state.num_seen not in (0, sequence.branch.length)
        return sequence.serial in self._broken or is_behind

    def fork(self, sequence: Request, child: Request) -> None:
        """A sequence goes on from where another is."""
        if sequence.serial in self.states:
            self.states[child.serial] = self.states[sequence.serial].fork()
        if self.is_awaiting(sequence):
            self._ready.append(child)

    def hand_on(self, sequence: Request, successor: Request) -> None:
        """Another object stands for the sequence from now on."""
        self._ready = [successor if other is sequence else other for other in self._ready]

    def prolong(self, sequence: Request) -> None:
        """A sequence that had ended goes on with more of its prompt."""
        if sequence.serial in self.states:
            self.states[sequence.serial].prefilled = False

    def catch_up(self, sequence: Request) -> None:
        """Makes up for a reduction that was left out as the sequence ended; others are to go on from it."""
        state = self.states[sequence.serial]
        if self._is_due(state, False):
            with self._changing(sequence):
                self._reduce(sequence, state)

    def forget(self, sequence: Request) -> None:
        """A sequence has ended."""
        self.states.pop(sequence.serial, None)
        self._broken.discard(sequence.serial)
        self._ready = [other for other in self._ready if other is not sequence]

    def _is_due(self, state: State, prefilled: bool) -> bool:
        num_bytes = 0
        if self.recipe.when.needs_bytes:
            stats = self.tree.stats()
            used = stats["slabs"] - stats["free_slabs"] - stats["cached_slabs"]
            num_bytes = used * self.tree.slab_bytes
        return self.recipe.when.due(CacheState(prefilled, state.since, num_bytes, self.tree.max_bytes))

    def _reduce(self, sequence: Request, state: State) -> None:
        table = self.tree.key_table(sequence.branch)
        self.scoring.add_stretch(sequence, state, whole=False, table=table)
        state.since = 0
        positions = self.reduction.run(sequence, state, self.scoring, table)
        if self.record is not None and positions is not None:
            self.record[sequence.index] = positions


def _fitted(engine: Requests, recipe: Recipe) -> Recipe:
    """The recipe with what it needs to know of the model."""
    found = inverse_frequencies(engine.model)
    if recipe.rerotate and found is None:
        raise ArgumentError("rerotate is True, expected a model with plain rotary embeddings")
    if found is not None and 2 * len(found) == engine.runner.shape.head_dim:
        return dataclasses.replace(recipe, score=recipe.score.with_frequencies(found))
    return recipe


def _shares(a: list[int], b: list[int]) -> bool:
    """Whether two prompts begin alike for so long that one would reuse the other's pages."""
    return a[:SHARED_PREFIX] == b[:SHARED_PREFIX]
