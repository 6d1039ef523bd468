"""What a recipe of :mod:`hornbeam.keep` does to the branches of one run, always at a commit.

The state of a sequence (queries of its last rows, probability mass of its keys) changes when a step
was committed and at no other time, from accepted rows alone: a step that is rolled back leaves it as
it was, and a draft that is rejected adds nothing. It belongs to the sequence and not to the pages,
since the rows of two sequences that share a prefix give its keys different mass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native, ops
from hornbeam.errors import ArgumentError
from hornbeam.keep.budget import parse, resolve
from hornbeam.keep.reduce import Drop, is_quantising
from hornbeam.keep.rotate import inverse_frequencies, turn
from hornbeam.keep.score import ExpectedAttention, Score
from hornbeam.keep.when import AfterPrefill, Moment, OnPressure
from hornbeam.sequence import SHARED_PREFIX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hornbeam.keep.recipe import Recipe
    from hornbeam.lm import LM
    from hornbeam.sequence import Sequence
    from hornbeam.tree import Branch, PrefixTree, Step

__all__ = ["Keeper", "Watch"]

#: Rows of decoding whose mass is added at once.
STRETCH = 128
#: Rows that the statistics of expected attention are taken from, at most.
SPREAD_ROWS = 1024
#: What makes a version inexact, for the tree: no two prefixes with it are ever matched.
EVICTED = 1


@dataclasses.dataclass
class Inputs:
    """What an attention module was given of a prompt, for scores that read it."""

    module: torch.nn.Module
    hidden: list[Tensor] = dataclasses.field(default_factory=list)  # [1, rows, hidden]
    rotary: list[tuple[Tensor, ...]] = dataclasses.field(default_factory=list)  # of [1, rows, D]


class State:
    """What is known of one sequence beyond its pages. Arrays of keys lie plane after plane."""

    def __init__(self) -> None:
        self.prefilled = False
        self.since = 0  # tokens committed since the last reduction, or since the prompt
        self.length = 0  # tokens that `mass` and `rotated` speak of
        self.mass = torch.empty(0, dtype=torch.int64)
        self.mass_rows: list[int] = []
        self.added = 0  # rows before this position are in the mass, or were not asked for
        self.rotated: NDArray[np.int32] | None = None
        self.queries: list[tuple[NDArray[np.int32], Tensor]] = []  # positions [R], rows [L, H, R, D]
        self.inputs: dict[int, Inputs] = {}

    def rows(self) -> tuple[NDArray[np.int32], Tensor | None]:
        """All queries that are kept, as one array."""
        if len(self.queries) > 1:
            positions = np.concatenate([positions for positions, _ in self.queries])
            self.queries = [(positions, torch.cat([rows for _, rows in self.queries], dim=2))]
        return self.queries[0] if self.queries else (np.empty(0, np.int32), None)

    def grow(self, entries: NDArray[np.int32], length: int) -> None:
        """Makes room for the keys of new tokens."""
        if self.length == length:
            return
        old = torch.from_numpy(entries[:, 2] < self.length)
        mass = torch.zeros(len(entries), dtype=torch.int64)
        mass[old] = self.mass
        self.mass = mass
        if self.rotated is not None:
            rotated = entries[:, 2].copy()
            rotated[old.numpy()] = self.rotated
            self.rotated = rotated
        self.length = length


@dataclasses.dataclass
class Take:
    """The rows of one sequence in a step that is under way."""

    state: State
    index: Tensor  # rows of the step
    positions: NDArray[np.int32]
    layers: list[Tensor] = dataclasses.field(default_factory=list)
    mass_index: Tensor | None = None  # rows of the step that add mass at once: those of a prompt
    mass_positions: NDArray[np.int32] | None = None
    counts: NDArray[np.int32] | None = None
    entries: NDArray[np.int32] | None = None
    mass: Tensor | None = None
    all_rows: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    inputs: dict[int, Inputs] = dataclasses.field(default_factory=dict)


class Watch:
    """Sees the queries of a step, layer by layer, as attention meets them."""

    def __init__(self, tree: PrefixTree, takes: list[Take], num_kv_heads: int) -> None:
        self.tree = tree
        self.takes = takes
        self.num_kv_heads = num_kv_heads

    @contextmanager
    def seeing_inputs(self, model: torch.nn.Module) -> Iterator[None]:
        """While it lasts, notes what attention modules are given: hidden states and rotary embeddings."""

        def note(module: torch.nn.Module, arguments: Any, options: dict[str, Any]) -> None:
            hidden = options["hidden_states"] if "hidden_states" in options else arguments[0]
            rotary = options.get("position_embeddings") or ()
            layer: Any = module.layer_idx
            for take in self.takes:
                rows = take.inputs.setdefault(layer, Inputs(module))
                rows.hidden.append(hidden[:, take.all_rows].cpu())
                rows.rotary.append(tuple(part[:, take.all_rows].cpu() for part in rotary))

        hooks = [
            module.register_forward_pre_hook(note, with_kwargs=True)
            for name, module in model.named_modules()
            if hasattr(module, "layer_idx") and name.endswith(("self_attn", "attention", "attn"))
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __call__(self, module: torch.nn.Module, layer: int, query: Tensor, options: dict[str, Any]) -> None:
        """``query [H, N, D]``, rotated, of physical layer ``layer``; keys are in their pages already."""
        reads = any(len(take.index) or take.mass_index is not None for take in self.takes)
        for name in ("sliding_window", "softcap", "s_aux"):
            if reads and options.get(name) is not None:
                raise ArgumentError(
                    f"layer {layer} attends with {name}, expected plain softmax attention: "
                    "this score reads probabilities; take one that needs no queries (knorm, key_diff)"
                )
        scale = options.get("scaling")
        scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
        for take in self.takes:
            take.layers.append(query[:, take.index].to("cpu", torch.float32, copy=True))
            if take.mass_index is None or len(take.mass_index) == 0:
                continue
            assert take.mass is not None
            rows = query[:, take.mass_index].to("cpu", torch.float32).contiguous()
            _native.keep_add_mass(
                _on_host(self.tree.chunks),
                take.counts,
                take.entries,
                rows[None],
                take.mass_positions,
                layer,
                self.num_kv_heads,
                scale,
                take.mass,
            )


class Keeper:
    """Runs one recipe for the sequences of one call."""

    def __init__(self, lm: LM, recipe: Recipe) -> None:
        self.lm = lm
        self.tree = lm.tree
        self.recipe = self._fitted(recipe)
        score = self.recipe.score
        self.is_native = type(score).scores is Score.scores
        self.window, others = _native.keep_rows(score.spec(), 1) if self.is_native else (score.num_rows, None)
        self.adds_mass = others is not None
        self.spreads = isinstance(score, ExpectedAttention)
        self.repeats = not isinstance(self.recipe.when, AfterPrefill)
        self.is_press = hasattr(score, "layer_scores")
        if self.is_press and self.repeats:
            raise ArgumentError("a press reads the hidden states of a prompt, expected when=AfterPrefill()")
        self.states: dict[int, State] = {}
        #: Where a caller sets it: positions that each plane showed after the last reduction, by sequence.
        self.record: dict[int, list[NDArray[np.int32]]] | None = None
        self._ready: list[Sequence] = []

    def _fitted(self, recipe: Recipe) -> Recipe:
        if is_quantising(recipe.reduce):
            raise ArgumentError(
                f"recipe {recipe.name} stores codes ({type(recipe.reduce).__name__}), which generate cannot "
                "do yet, expected a recipe that drops or merges; hornbeam.keep.reduce runs it on arrays"
            )
        score = recipe.score
        if isinstance(score, ExpectedAttention) and score.inverse_frequencies is None:
            found = inverse_frequencies(self.lm.model)
            if found is not None and 2 * len(found) == self.lm.runner.shape.head_dim:
                score = dataclasses.replace(score, inverse_frequencies=found)
        if recipe.rerotate and inverse_frequencies(self.lm.model) is None:
            raise ArgumentError("rerotate is True, expected a model with plain rotary embeddings")
        return dataclasses.replace(recipe, score=score)

    # -- what the decoding loop asks -------------------------------------------------------------

    def reusable(self, num_tokens: int) -> int:
        """Tokens of a prompt whose rows need not be computed: those whose queries nobody asks for."""
        if self.spreads or self.is_press:
            return 0
        first = max(num_tokens - self.window, 0)
        if self.adds_mass:
            _, others = _native.keep_rows(self.recipe.score.spec(), num_tokens)
            first = min([first, *(others or [])])
        return first

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
            state = self.states.setdefault(sequence.index, State())
            takes.append(self._take(state, sequence, own))
        wanted = (len(take.index) or take.mass_index is not None or len(take.all_rows) for take in takes)
        if not any(wanted):
            return None
        return Watch(self.tree, takes, self.tree.num_kv_heads)

    def _take(self, state: State, sequence: Sequence, own: NDArray[np.int64]) -> Take:
        begin = sequence.branch.length
        if state.prefilled:
            # A draft may be a tree: positions follow once it is known which rows stay.
            wanted = own if self._wants_rows() else own[:0]
            return Take(state, torch.from_numpy(wanted.copy()), np.empty(0, np.int32))
        positions = np.arange(begin, begin + len(own), dtype=np.int32)
        stay = positions >= begin + len(own) - self.window
        if self.spreads:
            stay |= (positions + 1) % _stride(len(sequence.prompt)) == 0
        take = Take(state, torch.from_numpy(own[stay]), positions[stay])
        if self.is_press:
            take.all_rows = torch.from_numpy(own.copy())
        if self.adds_mass:
            _, asked = _native.keep_rows(self.recipe.score.spec(), len(sequence.prompt))
            adds = np.isin(positions, np.asarray(asked, np.int32))
            take.mass_index = torch.from_numpy(own[adds])
            take.mass_positions = positions[adds]
            take.counts, take.entries = self.tree._native.held(sequence.branch._id, True)
            take.mass = torch.zeros(len(take.entries), dtype=torch.int64)
            if state.length:
                take.mass[torch.from_numpy(take.entries[:, 2] < state.length)] = state.mass
        return take

    def _wants_rows(self) -> bool:
        return self.repeats and bool(self.window or self.adds_mass or self.spreads)

    def on_prefill(self, watch: Watch | None, sequences: Seq[Sequence], waiting: Seq[Sequence]) -> None:
        """A step of prompts was committed. Reduces the sequences whose prompt is complete, unless one that
        is ``waiting`` would take up what they hold of its own prompt: those have their turn later."""
        for i, sequence in enumerate(sequences):
            state = self.states.setdefault(sequence.index, State())
            if watch is not None:
                take = watch.takes[i]
                if take.layers:
                    self._remember(state, take.positions, torch.stack(take.layers))
                for layer, inputs in take.inputs.items():
                    known = state.inputs.setdefault(layer, Inputs(inputs.module))
                    known.hidden.extend(inputs.hidden)
                    known.rotary.extend(inputs.rotary)
                if take.mass is not None and take.mass_positions is not None:
                    state.mass, state.length = take.mass, sequence.branch.length
                    state.mass_rows.extend(take.mass_positions.tolist())
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
                stay = np.ones(len(path), bool)
                if self.spreads:
                    stay = (positions + 1) % _stride(end) == 0
                self._remember(state, positions[stay], rows[:, :, torch.from_numpy(stay)])
            if sequence.finish is None and self._is_due(state, False):
                self._reduce(sequence, state)
            elif self.adds_mass and self.repeats and end - state.added >= STRETCH:
                self._add_mass(sequence, state)

    def forget(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        self.states.pop(sequence.index, None)

    # -- scores ----------------------------------------------------------------------------------

    def _remember(self, state: State, positions: NDArray[np.int32], rows: Tensor) -> None:
        """Keeps queries, and forgets those that no score will ask for."""
        if len(positions) == 0:
            return
        state.queries.append((positions, rows))
        end = int(positions[-1]) + 1
        if self.spreads:
            # What stays is a function of the length alone, however many rows came at once.
            if _stride(end) != _stride(end - len(positions)):
                positions, all_rows = state.rows()
                stay = (positions + 1) % _stride(end) == 0
                assert all_rows is not None
                state.queries = [(positions[stay], all_rows[:, :, torch.from_numpy(stay)])]
            return
        first = end - self.window
        if self.adds_mass and state.prefilled:
            first = min(first, state.added)
        while len(state.queries) > 1 and state.queries[0][0][-1] < first:
            state.queries.pop(0)

    def _add_mass(self, sequence: Sequence, state: State) -> None:
        """Adds what the accepted rows since the last time give to the keys. Probes are drawn anew in every
        stretch."""
        end = sequence.branch.length
        if state.added >= end or not state.prefilled:
            return
        counts, entries = self.tree._native.held(sequence.branch._id, False)
        state.grow(entries, end)
        _, drawn = _native.keep_rows(self.recipe.score.spec(), end - state.added)
        asked = np.asarray(drawn or [], np.int32) + state.added
        positions, rows = state.rows()
        chosen = np.isin(positions, asked)
        if rows is not None and chosen.any():
            _native.keep_add_mass(
                _on_host(self.tree.chunks),
                counts,
                entries,
                rows[:, :, torch.from_numpy(chosen)].contiguous(),
                positions[chosen],
                0,
                self.tree.num_kv_heads,
                self._scale,
                state.mass,
            )
            state.mass_rows.extend(positions[chosen].tolist())
        state.added = end

    @property
    def _scale(self) -> float:
        return self.lm.runner.scale

    def _scores(self, sequence: Sequence, state: State, counts: Any, entries: Any) -> Tensor:
        """Scores of everything that the branch holds, float32."""
        score, heads = self.recipe.score, self.tree.num_kv_heads
        shape = self.lm.runner.shape
        positions, rows = state.rows()
        if rows is None:
            rows = torch.empty(shape.num_layers, shape.num_heads, 0, shape.head_dim)
        if not self.spreads:
            # The last rows, without a gap: a pass that was rolled back leaves none.
            keep = positions >= sequence.branch.length - self.window
            positions, rows = positions[keep], rows[:, :, torch.from_numpy(keep)]
        if not self.is_native:
            return self._python_scores(sequence, counts, entries, rows.contiguous())
        out = torch.empty(len(entries))
        _native.keep_scores_held(
            score.spec(),
            _on_host(self.tree.chunks),
            counts,
            entries,
            rows.contiguous(),
            positions,
            state.mass if self.adds_mass else state.mass[:0],
            np.asarray(state.mass_rows if self.adds_mass else [], np.int32),
            sequence.branch.length,
            heads,
            self._scale,
            out,
        )
        return out

    def _python_scores(self, sequence: Sequence, counts: Any, entries: Any, rows: Tensor) -> Tensor:
        """A score written in Python sees the heads of a layer together while they hold equally many keys,
        and one by one when not."""
        heads, group = self.tree.num_kv_heads, rows.shape[1] // self.tree.num_kv_heads
        keys, values = ops.gather_rows(self.tree.chunks, counts, entries)
        planes = list(
            zip(torch.split(keys, counts.tolist()), torch.split(values, counts.tolist()), strict=True)
        )
        parts: list[Tensor] = []
        for layer in range(len(planes) // heads):
            own = planes[layer * heads : (layer + 1) * heads]
            if self.is_press:
                k, v = (torch.stack([plane[i] for plane in own])[None] for i in (0, 1))
                parts.append(
                    self._press_scores(self.states[sequence.index].inputs.pop(layer), k, v).flatten()
                )
                continue
            even = len({len(k) for k, _ in own}) == 1
            for head in range(0, heads, heads if even else 1):
                taken = own if even else own[head : head + 1]
                k, v = (torch.stack([plane[i] for plane in taken])[None, None] for i in (0, 1))
                q = rows[layer, head * group : (head + len(taken)) * group][None, None]
                got = self.recipe.score.scores(k, v, q, self._scale)
                parts.append(got.reshape(-1).float())
        return torch.cat(parts)

    def _press_scores(self, inputs: Inputs, keys: Tensor, values: Tensor) -> Tensor:
        score: Any = self.recipe.score
        shape = self.lm.runner.shape
        keys, values = keys.to(shape.device, shape.dtype), values.to(shape.device, shape.dtype)
        hidden = torch.cat(inputs.hidden, dim=1).to(shape.device)
        rotary = tuple(torch.cat(parts, dim=1).to(shape.device) for parts in zip(*inputs.rotary, strict=True))
        with _rotary_at_hand(inputs.module, self.lm.model):
            found: Tensor = score.layer_scores(inputs.module, hidden, keys, values, rotary)
        return found.cpu()

    # -- reduction -------------------------------------------------------------------------------

    def _is_due(self, state: State, prefilled: bool) -> bool:
        held = 0
        if isinstance(self.recipe.when, OnPressure):
            stats = self.tree.stats()
            used = stats["slabs"] - stats["free_slabs"] - stats["cached_slabs"]
            held = used * self.tree.slab_bytes
        return self.recipe.when.due(Moment(prefilled, state.since, held, self.tree.max_bytes))

    def _total(self, num_tokens: int) -> int:
        """Keys over all planes that the budget allows."""
        tree = self.tree
        kind, amount = parse(self.recipe.budget)
        if kind == "bytes":
            # Pages are what is allocated: every plane may leave one partly empty.
            pages = int(amount) // (tree.slab_bytes // tree.num_planes)
            return max((pages - tree.num_planes) * tree.page_tokens, 0) + min(pages, tree.num_planes)
        return resolve(self.recipe.budget, num_tokens=num_tokens, num_planes=tree.num_planes, token_bytes=0)

    def _reduce(self, sequence: Sequence, state: State) -> None:
        branch, tree, recipe = sequence.branch, self.tree, self.recipe
        if self.adds_mass:
            self._add_mass(sequence, state)
        state.since = 0
        counts, entries = tree._native.held(branch._id, False)
        total = self._total(branch.length)
        if total >= len(entries):
            return
        state.grow(entries, branch.length)
        scores = self._scores(sequence, state, counts, entries)
        kept = torch.empty(len(entries), dtype=torch.bool)
        budgets = torch.empty(tree.num_physical_layers, tree.num_kv_heads, dtype=torch.int32)
        _native.keep_select(
            recipe.split.spec(),
            scores,
            counts.reshape(budgets.shape),
            np.ascontiguousarray(entries[:, 2]),
            total,
            recipe.score.protected,
            recipe.score.unit,
            budgets,
            kept,
        )
        planes = [part.nonzero().flatten() for part in torch.split(kept, counts.tolist())]
        before = sum(tree._native.pages_by_plane(branch._id))
        chunk_pages = tree.slabs_per_chunk * tree.num_planes
        merged = self._merged(counts, entries, scores, planes)
        tree.condense(branch, [plane.to(torch.int32) for plane in planes], digest=EVICTED)
        if self.record is not None:
            shown = np.split(entries[:, 2], np.cumsum(counts)[:-1])
            picked = zip(shown, planes, strict=True)
            self.record[sequence.index] = [positions[plane.numpy()] for positions, plane in picked]
        state.mass = state.mass[kept] if self.adds_mass else state.mass
        if merged is not None or recipe.rerotate:
            self._rewrite(branch, state, kept, entries, merged)
        if not self.adds_mass:
            state.mass = torch.zeros(int(kept.sum()), dtype=torch.int64)
        sequence.record_reduction(before, int(kept.sum()))
        # The pool shrinks, unless it would grow again at once.
        if (
            self.lm.graphs is None
            and before - sum(tree._native.pages_by_plane(branch._id)) >= 2 * chunk_pages
        ):
            tree.trim()

    def _merged(
        self, counts: Any, entries: Any, scores: Tensor, planes: list[Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the kept slots, where the reduction changes them."""
        if isinstance(self.recipe.reduce, Drop):
            return None
        keys, values = ops.gather_rows(self.tree.chunks, counts, entries)
        parts = zip(*(torch.split(x, counts.tolist()) for x in (keys, values, scores)), planes, strict=True)
        done = [self.recipe.reduce.reduce(k, v, s, plane) for k, v, s, plane in parts]
        return torch.cat([part.keys for part in done]), torch.cat([part.values for part in done])

    def _rewrite(
        self,
        branch: Branch,
        state: State,
        kept: Tensor,
        old: NDArray[np.int32],
        merged: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Writes merged and turned keys to the new version's pages, which only this branch reads."""
        counts, entries = self.tree._native.held(branch._id, False)
        keys, values = merged if merged is not None else ops.gather_rows(self.tree.chunks, counts, entries)
        if self.recipe.rerotate:
            before = old[:, 2] if state.rotated is None else state.rotated
            # The newest key lies one before the next token, the others follow without a gap.
            target = np.concatenate(
                [np.arange(branch.length - n, branch.length, dtype=np.int32) for n in counts.tolist()]
            )
            frequencies = inverse_frequencies(self.lm.model)
            assert frequencies is not None
            keys = turn(keys, torch.from_numpy(target - before[kept.numpy()]), frequencies)
            state.rotated = target
        ops.put_rows(self.tree.chunks, entries, keys, values)


@contextmanager
def _rotary_at_hand(module: torch.nn.Module, model: Any) -> Iterator[None]:
    """Presses look for the model's rotary embedding on the attention module."""
    rotary = getattr(getattr(model, "base_model", model), "rotary_emb", None)
    if rotary is None or hasattr(module, "rotary_emb"):
        yield
        return
    module.rotary_emb = rotary
    try:
        yield
    finally:
        del module.rotary_emb


def _on_host(chunks: list[Tensor]) -> list[Tensor]:
    return [chunk if chunk.device.type == "cpu" else chunk.cpu() for chunk in chunks]


def _stride(num_tokens: int) -> int:
    """Every so many rows are kept for statistics: a power of two, so that those kept of a longer sequence
    are among those of a shorter one."""
    return 1 << max(-(-num_tokens // SPREAD_ROWS) - 1, 0).bit_length()


def _shares(a: list[int], b: list[int]) -> bool:
    """Whether two prompts begin alike for so long that one would reuse the other's pages."""
    return a[:SHARED_PREFIX] == b[:SHARED_PREFIX]
