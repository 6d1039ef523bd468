"""The model's forward pass over pages: rows in, logits and hidden states out.

The only file that calls the model. A forward pass is one flat ragged batch of rows in depth-first
order of the prefix tree; the model sees it as one sequence, ``[1, num_rows]``, with explicit
positions, and hornbeam's attention function takes what each row may see from the step's plan. The
function is switched in for the length of the call, so the user's own ``model.generate`` never meets it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from hornbeam import cuda, paged_attention
from hornbeam.fast_linear import FastLinear
from hornbeam.layers import Computed, DecoderLayers, Tap
from hornbeam.model_shape import ModelShape, Probe, refuse_by_config, shape_of
from hornbeam.paged_attention import ATTENTION_NAME, STEP_KEYWORD, Attention, Observer, PagedAttention

if TYPE_CHECKING:
    from hornbeam._native import Plan
    from hornbeam.tree import PrefixTree, Step

__all__ = ["ModelShape", "Output", "Runner"]


@dataclass(frozen=True)
class Output:
    """What one forward pass gives.

    ``logits``: ``[rows asked for, vocabulary]``, in the order asked for. ``hidden``: ``None``, or the
    hidden states ``[num_rows, hidden]`` after the embedding and after each layer, in row order.
    """

    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] | None


class Runner:
    """Drives a transformers causal LM over a :class:`~hornbeam.tree.PrefixTree`.

    Construction checks that the architecture fits (with one forward pass of two rows) and raises
    :class:`~hornbeam.errors.UnsupportedModel` with the reason where it does not. Calls are
    serialised by a lock; a call changes nothing of the model that outlasts it.
    """

    def __init__(self, model: Any) -> None:
        paged_attention.register()
        refuse_by_config(model)
        self.model = model
        self.lock = threading.RLock()
        self._configs = _attention_configs(model)
        self._linear = FastLinear(model)
        self.shape = shape_of(model, partial(self._call, logits_rows=0, hidden=False))
        #: What attention multiplies scores by.
        self.scale = self.shape.scale
        self._layers: DecoderLayers | None = None

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
    ) -> Output:
        """Runs the rows of an open step; their keys and values are in the pages afterwards.

        With ``layers`` only these run, and only theirs are; ``tap`` takes what those below its layer
        compute. ``entry`` is what the layers below ``entry.layer`` gave for the step's rows earlier, in
        row order: they do not run again.

        On a device, returns before that: what reads the outputs waits. ``logits_rows`` names the rows
        whose logits are wanted, in the order wanted; ``None`` means all.
        ``observer`` sees every layer's queries, once its keys are in the pages.
        The caller commits or rolls back.
        """
        inputs = [step.host_token_ids, step.host_positions]
        if logits_rows is not None:
            inputs.append(torch.as_tensor(logits_rows, dtype=torch.int64))
        token_ids, positions, *rows = cuda.upload(inputs, self.shape.device)
        plan: Plan | cuda.DevicePlan = step.plan
        if cuda.is_on_device(tree.chunks[0]):
            heads, kv_heads = self.shape.num_heads, self.shape.num_kv_heads
            plan = cuda.DevicePlan(step.plan, tree.chunks, num_heads=heads, num_kv_heads=kv_heads)
        attention = PagedAttention(tree, self.shape, plan, is_dense=step.is_dense, observer=observer)
        attention.tap = tap
        with ExitStack() as stack:
            if layers is not None or entry is not None:
                stack.enter_context(self.lock)
                stack.enter_context(torch.inference_mode())
                kept = frozenset(range(self.shape.num_layers) if layers is None else layers)
                if entry is not None:
                    kept -= frozenset(range(entry.layer))
                    for index, (keys, values) in enumerate(zip(entry.keys, entry.values, strict=True)):
                        attention.write(index, keys, values)
                stack.enter_context(self.decoder_layers().switched(kept, tap, entry))
            result = self._call(token_ids, positions, attention, rows[0] if rows else 0, hidden)
        states = None
        if hidden:
            states = tuple(state[0] for state in result.hidden_states)
        return Output(result.logits[0], states)

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
        result = self._call(token_ids, positions, attention, logits_rows, False)
        logits: torch.Tensor = result.logits[0]
        return logits

    def decoder_layers(self) -> DecoderLayers:
        """The model's layers, for passes through some of them.

        Raises:
            UnsupportedModel: they cannot be told apart.
        """
        if self._layers is None:
            rows = torch.tensor([0], device=self.shape.device)
            run = partial(self._call, rows, rows, Probe(), 0, False)
            self._layers = DecoderLayers(self.model, self.shape.num_layers, run)
        return self._layers

    def _call(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attention: Attention,
        logits_rows: int | torch.Tensor,
        hidden: bool,
    ) -> Any:
        options: dict[str, Any] = {STEP_KEYWORD: attention}
        if hidden:
            options["output_hidden_states"] = True
        with self.lock, torch.inference_mode(), self._attention_switched(), self._linear:
            return self.model(
                input_ids=token_ids.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                use_cache=False,
                logits_to_keep=logits_rows,
                **options,
            )

    @contextmanager
    def _attention_switched(self) -> Iterator[None]:
        before = [config._attn_implementation_internal for config in self._configs]
        training = self.model.training
        for config in self._configs:
            config._attn_implementation_internal = ATTENTION_NAME
        if training:
            self.model.eval()
        try:
            yield
        finally:
            for config, name in zip(self._configs, before, strict=True):
                config._attn_implementation_internal = name
            if training:
                self.model.train()


def _attention_configs(model: Any) -> list[Any]:
    """Every configuration that some module reads its attention implementation from, once each."""
    found: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation_internal"):
            found[id(config)] = config
    return list(found.values())
