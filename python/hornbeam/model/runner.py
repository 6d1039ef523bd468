"""The model's forward pass over pages: rows in, logits and hidden states out.

The only file that calls the model. A forward pass is one flat ragged batch of rows in depth-first
order of the prefix tree; the model sees it as one sequence, ``[1, num_rows]``, with explicit
positions, and hornbeam's attention function takes what each row may see from the step's plan.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from hornbeam import cuda
from hornbeam.errors import ArgumentError
from hornbeam.model import attention as paged_attention
from hornbeam.model import invariance
from hornbeam.model.attention import (
    ATTENTION_NAME,
    PASS_ATTRIBUTE,
    Attention,
    Observer,
    PagedAttention,
    Pass,
)
from hornbeam.model.layers import Computed, DecoderLayers, Tap
from hornbeam.model.linear import use_native_linear
from hornbeam.model.shadow import Shadow
from hornbeam.model.shape import ModelShape, Probe, refuse_by_config, shape_of
from hornbeam.model.sparse import RowRecipe, SparseChunk, SparsePrefill, SparseRows
from hornbeam.model.state import Change, ModelState
from hornbeam.model.switch import Switch
from hornbeam.model.unwrap import unwrapped

if TYPE_CHECKING:
    from hornbeam._native import Plan
    from hornbeam.cache.tree import PrefixTree, Step

__all__ = ["ModelShape", "Output", "Runner"]


@dataclass(frozen=True)
class Output:
    """What one forward pass gives.

    ``logits``: ``[rows asked for, vocabulary]``, in the order asked for. ``hidden``: ``None``, or the
    hidden states ``[num_rows, hidden]`` after the embedding and after each layer, in row order.
    ``keys_read`` of ``keys``: what a pass with sparse rows read of the keys before it, see
    :class:`~hornbeam.model.sparse.SparseRows`; 0 of 0 for others.
    """

    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] | None
    keys_read: int = 0
    keys: int = 0


class Runner:
    """Drives a transformers causal LM over a :class:`~hornbeam.cache.tree.PrefixTree`.

    Construction checks that the architecture fits, with small forward passes, and raises
    :class:`~hornbeam.errors.UnsupportedModel` with the reason where it does not. Passes run on copies of
    the model's modules (:class:`~hornbeam.model.shadow.Shadow`) that share its weights, so nothing of the
    model is switched. :meth:`look` brings the copies up to date; passes do not look by themselves.

    Attributes:
        model: the model, out of wrappers.
        shape: what is known of it.
        shadow: the copies of its modules.
        changes: how often the model was seen, or said, to have changed.
        switch: which kernels run its passes.
        batch_invariant: whether the bits of a row's results depend on its own inputs alone.
    """

    def __init__(self, model: Any, *, batch_invariant: bool = False) -> None:
        paged_attention.register()
        self.batch_invariant = batch_invariant
        self.model = unwrapped(model)
        refuse_by_config(self.model)
        self.lock = threading.RLock()
        self.changes = 0
        self.switch = Switch()
        self._state = ModelState(self.model)
        self.renew()

    def look(self, *, closely: bool) -> Change:
        """Whether the model has changed since the last look. From then on passes are of the model as it is.

        Args:
            closely: compare all that can be compared, see :mod:`hornbeam.model.state`: before each call. Else
                what costs least: before each pass.

        Raises:
            UnsupportedModel: the changed model cannot be driven over pages.
        """
        with self.lock:
            change = self._state.look_closely() if closely else self._state.look()
            if change is Change.STRUCTURE or self._is_outdated:
                self.renew()
                return Change.STRUCTURE
            # Counted before it is taken: after an interrupt in between it is seen once more.
            self.changes += change is not Change.NOTHING
            if change is Change.HOOKS:
                self._state.read()
                self.shadow.renew_hooks()
            elif change is Change.WEIGHTS:
                self._state.read_numbers()
            return change

    def renew(self) -> None:
        """Takes the model as it is, whether a change is to be seen or not.

        Raises:
            UnsupportedModel: as :meth:`look`.
        """
        with self.lock:
            self.changes += 1
            self._is_outdated = True
            self._state.read()  # before it is copied: a change in between is seen by the next look
            self._copy()
            call = partial(self._call, logits_rows=0, hidden=False)
            self.shape = shape_of(self.model, call)
            if self.batch_invariant:
                invariance.refuse_modules(self.shadow.model, self.shape)
                with invariance.own_threads():
                    invariance.refuse_mixed_bits(self.model, call)
            self._is_outdated = False

    def _copy(self) -> None:
        """Copies the modules, as they are now."""
        self._pass = Pass()
        shadow = Shadow(self.model, ATTENTION_NAME, {PASS_ATTRIBUTE: self._pass})
        use_native_linear(shadow.model, switch=self.switch, only_ours=self.batch_invariant)
        self.shadow = self._state.shadow = shadow
        self._layers: DecoderLayers | None = None
        # Whether a pass has begun on the copies and not ended: then they may be in any state.
        self._is_dirty = False

    def _begin(self) -> None:
        """A pass begins, on copies that no earlier pass has left half-way."""
        if self._is_dirty:
            self._copy()
        self._is_dirty = True

    @property
    def scale(self) -> float:
        """What attention multiplies scores by."""
        return self.shape.scale

    @property
    def is_asynchronous(self) -> bool:
        """Whether :meth:`forward` returns before the device is done."""
        return self.shape.device.type != "cpu"

    def wait(self) -> None:
        """Waits until the device has done everything that was asked of it."""
        if self.is_asynchronous:
            torch.cuda.synchronize(self.shape.device)

    def forward(
        self,
        tree: PrefixTree,
        step: Step,
        *,
        logits_rows: Sequence[int] | torch.Tensor | None = None,
        hidden: bool = False,
        layers: frozenset[int] | None = None,
        tap: Tap | None = None,
        entry: Computed | None = None,
        observer: Observer | None = None,
        attend: Sequence[RowRecipe] = (),
        prefill: SparsePrefill | None = None,
    ) -> Output:
        """Runs the rows of an open step; their keys and values are in the pages afterwards.

        With ``layers`` only these run, and only theirs are; ``tap`` takes what those below its layer
        compute. ``entry`` is what the layers below ``entry.layer`` gave for the step's rows earlier, in
        row order: they do not run again.

        On a device, returns before that: what reads the outputs waits. ``logits_rows`` names the rows
        whose logits are wanted, in the order wanted; ``None`` means all.
        ``observer`` sees every layer's queries, once its keys are in the pages.
        ``attend``: intervals of rows that read a part of their keys only, with their recipes; ``prefill``
        reads the one chain of the step sparsely. Both on the CPU alone.
        The caller commits or rolls back.

        Raises:
            ArgumentError: the intervals of ``attend`` are none of the rows, ``prefill`` is given for more
                than one chain, or one of them with pages on a device.
        """
        inputs = [step.host_token_ids, step.host_positions]
        if logits_rows is not None:
            inputs.append(torch.as_tensor(logits_rows, dtype=torch.int64))
        token_ids, positions, *rows = cuda.upload(inputs, self.shape.device)
        plan: Plan | cuda.DevicePlan = step.plan
        sparse_rows = SparseRows(tree, step.plan, self.shape, attend) if attend else None
        sparse_chunk = None if prefill is None else SparseChunk(tree, step, self.shape, prefill)
        if cuda.is_on_device(tree.chunks[0]):
            if attend or prefill is not None:
                name = "attend" if attend else "prefill"
                raise ArgumentError(f"{name} is given for pages on a device, expected pages on the CPU")
            heads, kv_heads = self.shape.num_heads, self.shape.num_kv_heads
            plan = cuda.DevicePlan(step.plan, tree.chunks, num_heads=heads, num_kv_heads=kv_heads)
        attention = PagedAttention(
            tree,
            self.shape,
            plan,
            is_dense=step.is_dense,
            observer=observer,
            sparse_rows=sparse_rows,
            sparse_chunk=sparse_chunk,
            switch=self.switch,
            batch_invariant=self.batch_invariant,
        )
        attention.tap = tap
        threads = invariance.own_threads() if self.batch_invariant else nullcontext()
        with self.lock, torch.inference_mode(), threads:
            begin = self.switch.begin()
            self._begin()
            if layers is None and entry is None:
                result = self._call(token_ids, positions, attention, rows[0] if rows else 0, hidden)
            else:
                kept = frozenset(range(self.shape.num_layers) if layers is None else layers)
                if entry is not None:
                    kept -= frozenset(range(entry.layer))
                    for index, (keys, values) in enumerate(zip(entry.keys, entry.values, strict=True)):
                        attention.write(index, keys, values)
                with self.decoder_layers().switched(kept, tap, entry):
                    result = self._call(token_ids, positions, attention, rows[0] if rows else 0, hidden)
            self._is_dirty = False
            self.switch.end(begin)
        states = None
        if hidden:
            states = tuple(state[0] for state in result.hidden_states)
        if sparse_rows is None:
            return Output(result.logits[0], states)
        return Output(result.logits[0], states, sparse_rows.keys_read, sparse_rows.keys)

    def logits_over(
        self,
        tree: PrefixTree,
        plan: cuda.DevicePlan,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        logits_rows: torch.Tensor,
    ) -> torch.Tensor:
        """The logits ``[rows asked for, vocabulary]`` of a plan's rows, padding included: ``token_ids`` and
        ``positions`` int64 ``[num_rows]``, ``logits_rows`` int64. All arguments are on the device and nothing
        is sent there, so that the call can be captured in a graph."""
        attention = PagedAttention(tree, self.shape, plan)
        with self.lock:
            self._begin()
            logits: torch.Tensor = self._call(token_ids, positions, attention, logits_rows, False).logits[0]
            self._is_dirty = False
        return logits

    def decoder_layers(self) -> DecoderLayers:
        """The model's layers, for passes through some of them.

        Raises:
            UnsupportedModel: they cannot be told apart.
        """
        if self._layers is None:
            rows = torch.tensor([0], device=self.shape.device)
            run = partial(self._call, rows, rows, Probe(), 0, False)
            self._layers = DecoderLayers(self.shadow.model, self.shape.num_layers, run)
        return self._layers

    def _call(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attention: Attention,
        logits_rows: int | torch.Tensor,
        hidden: bool,
    ) -> Any:
        options: dict[str, Any] = {"output_hidden_states": True} if hidden else {}
        with self._pass.answered_by(attention), torch.inference_mode():
            return self.shadow.model(
                input_ids=token_ids.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                use_cache=False,
                logits_to_keep=logits_rows,
                **options,
            )
