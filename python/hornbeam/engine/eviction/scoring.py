"""From the queries and the mass of a sequence to scores of the resident keys of its branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native, cuda
from hornbeam.cuda.scores import score_resident
from hornbeam.engine.eviction.moments import QueryMoments
from hornbeam.engine.eviction.observer import Rule, add_mass
from hornbeam.engine.eviction.state import Inputs, MassTake, State
from hornbeam.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hornbeam.cache.key_table import KeyTable
    from hornbeam.cache.tree import Step
    from hornbeam.engine.request import Request
    from hornbeam.engine.requests import Requests
    from hornbeam.keep.score import Score

__all__ = ["Scoring"]

#: Rows of decoding whose mass is added at once.
STRETCH = 128


class Scoring:
    """One score, for the sequences of one call."""

    def __init__(self, engine: Requests, score: Score, repeats: bool) -> None:
        self.engine = engine
        self.tree = engine.tree
        self.score = score
        self.repeats = repeats
        self.is_native = score.is_native
        sets = score.row_sets(1)
        #: The last rows whose queries it needs; whether it needs mass of others.
        self.window = max((count for count, _ in sets if count is not None), default=0)
        self.adds_mass = any(others is not None for _, others in sets)
        #: The moments of all queries that it asks for.
        self.moments = score.moments
        self.is_press = score.reads_inputs
        #: What each physical layer does with its scores, as far as it was seen.
        self.rules: dict[int, Rule] = {}

    @property
    def is_plain_only(self) -> bool:
        """Whether it reads queries otherwise than by the probabilities that attention gives."""
        return not self.is_native or self.moments is not None

    @property
    def wants_rows(self) -> bool:
        """Whether it needs queries of decoding."""
        return self.repeats and bool(self.window or self.adds_mass or self.moments)

    def others(self, num_tokens: int) -> list[int]:
        """The rows, among so many, whose mass is added up beside that of the last ones."""
        for _, others in self.score.row_sets(num_tokens):
            if others is not None:
                return others
        return []

    def mass_take(self, state: State, sequence: Request, own: NDArray[np.int64], step: Step) -> MassTake:
        """The rows of a prompt that add mass in an open step."""
        begin = sequence.branch.length
        positions = np.arange(begin, begin + len(own), dtype=np.int32)
        asked = np.isin(positions, np.asarray(self.others(len(sequence.prompt)), np.int32))
        table = self.tree.key_table(sequence.branch, in_step=True)
        slots = np.ascontiguousarray(step.plan.row_slots[own])
        plan, columns = _native.resident_plan(table.native, positions, slots)
        sums = torch.zeros(len(table), dtype=torch.int64, device=self.tree.device)
        if state.length:
            old = torch.from_numpy(np.flatnonzero(table.positions < state.length))
            sums[old.to(sums.device)] = state.mass
        return MassTake(
            torch.from_numpy(own[asked]),
            torch.from_numpy(np.flatnonzero(asked)),
            positions[asked],
            plan,
            torch.from_numpy(columns).long().to(self.tree.device),
            table.offsets,
            sums,
        )

    def remember(self, state: State, positions: NDArray[np.int32], rows: Tensor) -> None:
        """Keeps queries, or their moments, and forgets those that no score will ask for."""
        if len(positions) == 0:
            return
        if self.moments is not None:
            if state.moments is None:
                state.moments = QueryMoments(self.moments.sinks, self.moments.inverse_frequencies)
            state.moments.add(positions, rows)
            return
        state.queries.append((positions, rows))
        first = int(positions[-1]) + 1 - self.window
        if self.adds_mass and state.prefilled:
            first = min(first, state.added)
        while len(state.queries) > 1 and state.queries[0][0][-1] < first:
            state.queries.pop(0)

    def add_stretch(
        self, sequence: Request, state: State, *, whole: bool, table: KeyTable | None = None
    ) -> None:
        """Adds what the accepted rows since the last time give to the keys: with ``whole`` once there are
        :data:`STRETCH` of them. Probes are drawn anew in every stretch. ``table`` is that of the branch,
        where it is known already."""
        end = sequence.branch.length
        if not (self.adds_mass and self.repeats and state.prefilled) or state.added >= end:
            return
        if whole and end - state.added < STRETCH:
            return
        table = self.tree.key_table(sequence.branch) if table is None else table
        state.grow(table, end)
        asked = np.asarray(self.others(end - state.added), np.int32) + state.added
        positions, rows = state.rows()
        chosen = np.isin(positions, asked)
        if rows is not None and chosen.any():
            queries = rows[:, :, torch.from_numpy(chosen)]
            state.mass += self._mass(table, positions[chosen], queries)
            state.mass_rows.extend(positions[chosen].tolist())
        state.added = end

    def _mass(self, table: KeyTable, positions: Any, queries: Tensor) -> Tensor:
        """What rows at ``positions``, `queries [L, H, R, D]`, give to all resident keys."""
        sums = torch.zeros(len(table), dtype=torch.int64, device=self.tree.device)
        if len(positions) == 0:
            return sums
        queries = queries.to(self.tree.device)
        plan, columns = _native.resident_plan(table.native, np.ascontiguousarray(positions))
        rows = torch.arange(len(positions))
        at = torch.from_numpy(columns).long().to(self.tree.device)
        for layer in range(len(queries)):
            rule = self.rules.get(layer, Rule())
            add_mass(self.tree, queries[layer], plan, rows, layer, rule, at, table.offsets, sums)
        return sums

    def _seen(self, table: KeyTable, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """How many of the rows, ascending, see each key."""
        seen = (len(rows) - np.searchsorted(rows, table.positions)).astype(np.int32)
        heads, offsets = self.tree.num_kv_heads, table.offsets
        for layer, rule in self.rules.items():
            if rule.window is not None:
                own = slice(offsets[layer * heads], offsets[(layer + 1) * heads])
                beyond = np.searchsorted(rows, table.positions[own] + rule.window)
                seen[own] -= (len(rows) - beyond).astype(np.int32)
        return seen

    def scores(self, sequence: Request, state: State, table: KeyTable) -> Tensor:
        """Scores of all resident keys of the branch, float32, plane after plane: where the pool is, but for
        a score written in Python."""
        shape = self.engine.runner.shape
        positions, rows = state.rows()
        if rows is None:
            rows = torch.empty(shape.num_layers, shape.num_heads, 0, shape.head_dim, dtype=torch.float32)
        # The last rows, without a gap: a pass that was rolled back leaves none.
        keep = positions >= sequence.branch.length - self.window
        positions, rows = positions[keep], rows[:, :, torch.from_numpy(keep)].contiguous()
        if not self.is_native:
            return self._python_scores(state, table, rows)
        masses = []
        for count, others in self.score.row_sets(1):
            if others is not None:
                masses.append((state.mass, self._seen(table, np.sort(state.mass_rows))))
                continue
            last = positions >= sequence.branch.length - (count or 0)
            if int(last.sum()) < min(count or 0, sequence.branch.length):
                raise ArgumentError(f"{int(last.sum())} of the last {count} rows are known, expected all")
            sums = self._mass(table, positions[last], rows[:, :, torch.from_numpy(last)])
            masses.append((sums, self._seen(table, positions[last])))
        spec, chunks, seen = self.score.spec(), self.tree.chunks, sequence.branch.length
        heads, scale = self.tree.num_kv_heads, self.engine.runner.scale
        expected = None
        if state.moments is not None and self.moments is not None:
            found = state.moments.expected(seen, self.moments.future)
            expected = found[0].cpu(), found[1].cpu()
        if cuda.is_on_device(chunks[0]):
            return score_resident(
                spec,
                chunks,
                table.counts,
                table.entries,
                masses,
                num_seen=seen,
                num_kv_heads=heads,
                group=shape.num_heads // heads,
                scale=scale,
                expected=expected,
            )
        out = torch.empty(len(table), dtype=torch.float32)
        bits = None
        if expected is not None:
            bits = expected[0].contiguous().view(torch.int64), expected[1].contiguous().view(torch.int64)
        _native.keep_scores_resident(
            spec, chunks, table.native, rows, positions, masses, seen, heads, scale, out, bits
        )
        return out

    def _python_scores(self, state: State, table: KeyTable, rows: Tensor) -> Tensor:
        """A score written in Python sees the heads of a layer together while they show equally many keys,
        and one by one when not."""
        heads, group = self.tree.num_kv_heads, rows.shape[1] // self.tree.num_kv_heads
        rows = rows.cpu()
        keys, values = table.gather(self.tree.chunks)
        planes = list(zip(*(torch.split(x, table.counts.tolist()) for x in (keys, values)), strict=True))
        parts: list[Tensor] = []
        for layer in range(len(planes) // heads):
            own = planes[layer * heads : (layer + 1) * heads]
            if self.is_press:
                k, v = (torch.stack([plane[i] for plane in own])[None] for i in (0, 1))
                parts.append(self._press_scores(state.inputs.pop(layer), k, v).flatten())
                continue
            even = len({len(k) for k, _ in own}) == 1
            for head in range(0, heads, heads if even else 1):
                taken = own if even else own[head : head + 1]
                k, v = (torch.stack([plane[i] for plane in taken])[None, None] for i in (0, 1))
                q = rows[layer, head * group : (head + len(taken)) * group][None, None]
                parts.append(self.score.evaluate(k, v, q, self.engine.runner.scale).flatten())
        return torch.cat(parts)

    def _press_scores(self, inputs: Inputs, keys: Tensor, values: Tensor) -> Tensor:
        shape = self.engine.runner.shape
        keys, values = keys.to(shape.device, shape.dtype), values.to(shape.device, shape.dtype)
        hidden = torch.cat(inputs.hidden, dim=1).to(shape.device)
        rotary = tuple(torch.cat(parts, dim=1).to(shape.device) for parts in zip(*inputs.rotary, strict=True))
        _put_rotary_at_hand(inputs.module, self.engine.runner.shadow.model)
        found = self.score.layer_scores(inputs.module, hidden, keys, values, rotary)
        return found.cpu()


def _put_rotary_at_hand(module: torch.nn.Module, model: Any) -> None:
    """Presses look for the model's rotary embedding on the attention module, which is a copy of ours."""
    rotary = getattr(getattr(model, "base_model", model), "rotary_emb", None)
    if rotary is not None and not hasattr(module, "rotary_emb"):
        vars(module)["rotary_emb"] = rotary
