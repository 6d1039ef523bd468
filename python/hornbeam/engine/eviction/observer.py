"""The observer of a step: what attention is given, and the mass of rows that are too many to be kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from hornbeam import ops
from hornbeam.engine.eviction.state import Inputs, Observed
from hornbeam.errors import ArgumentError

if TYPE_CHECKING:
    from hornbeam._native import Plan
    from hornbeam.cache.tree import PrefixTree

__all__ = ["QueryObserver", "Rule", "add_mass"]


class Rule(NamedTuple):
    """How a layer makes scores probabilities."""

    scale: float | None = None
    window: int | None = None
    soft_cap: float | None = None
    sinks: Tensor | None = None

    @staticmethod
    def of(options: dict[str, Any]) -> Rule:
        """From what transformers hands to an attention function."""
        sinks = options.get("s_aux")
        return Rule(
            options.get("scaling"),
            options.get("sliding_window"),
            options.get("softcap"),
            None if sinks is None else sinks.detach().to(torch.float32).contiguous(),
        )


class QueryObserver:
    """Sees the queries of a step, layer by layer, as attention meets them.

    ``rules`` takes what each physical layer does with its scores. With ``is_plain_only`` a layer that does
    more than a softmax is refused.
    """

    def __init__(
        self, tree: PrefixTree, takes: list[Observed], rules: dict[int, Rule], is_plain_only: bool
    ) -> None:
        self.tree = tree
        self.takes = takes
        self.rules = rules
        self.is_plain_only = is_plain_only

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
        reads = any(len(take.index) for take in self.takes)
        for name in ("sliding_window", "softcap", "s_aux"):
            if reads and self.is_plain_only and options.get(name) is not None:
                raise ArgumentError(
                    f"layer {layer} attends with {name}, expected plain softmax attention: this score "
                    "reads queries itself; take one of probability mass or one without queries"
                )
        rule = self.rules[layer] = Rule.of(options)
        # Where probabilities are found: on the pool's device, unless the score reads queries itself.
        device = "cpu" if self.is_plain_only else self.tree.device
        for take in self.takes:
            take.layers.append(query[:, take.index].to(device, torch.float32, copy=True))
            mass = take.mass
            if mass is None or len(mass.index) == 0:
                continue
            rows = query[:, mass.index].to(self.tree.device, torch.float32)
            add_mass(self.tree, rows, mass.plan, mass.own, layer, rule, mass.columns, mass.offsets, mass.sums)


def add_mass(
    tree: PrefixTree,
    queries: Tensor,
    plan: Plan,
    rows: Tensor,
    layer: int,
    rule: Rule,
    columns: Tensor,
    offsets: list[int],
    sums: Tensor,
) -> None:
    """Adds to the int64 ``sums`` of all keys what ``rows`` of a plan, `queries [H, R, D]`, give to those of
    a layer. ``columns`` says of each key where :func:`hornbeam.ops.attention_mass` has it, or -1. Tensors but
    ``rows`` lie on the pool's device, and nothing is waited for."""
    heads = tree.num_kv_heads
    found = ops.attention_mass(
        queries.transpose(0, 1),
        tree.chunks,
        plan,
        rows,
        layer=layer,
        num_kv_heads=heads,
        scale=rule.scale,
        window=rule.window,
        soft_cap=rule.soft_cap,
        sinks=None if rule.sinks is None else rule.sinks.to(queries.device),
    )
    for head in range(heads):
        own = slice(offsets[layer * heads + head], offsets[layer * heads + head + 1])
        at = columns[own]
        sums[own] += torch.where(at >= 0, found[head, at.clamp_min(0)], 0)
