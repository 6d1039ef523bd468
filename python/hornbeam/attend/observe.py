"""The queries, keys and values of a model's own pass over a text, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError

if TYPE_CHECKING:
    from hornbeam.cache.key_table import KeyTable
    from hornbeam.cache.tree import PrefixTree

__all__ = ["Seen", "observe"]


class Seen(NamedTuple):
    """What attention is given in one layer, all rotated, on the CPU."""

    q: Tensor
    """Queries `[H, N, D]`, in the model's dtype."""
    k: Tensor
    """Keys `[Hk, N, D]`, in the dtype of the pages."""
    v: Tensor
    """Values, as keys."""
    scale: float
    """What scores are multiplied by."""


class Host(Protocol):
    """What runs a model over pages, such as :class:`hornbeam.Engine`."""

    tree: PrefixTree
    runner: Any

    def forward(self, step: Any, **options: Any) -> Any:
        """Runs the rows of an open step."""

    def exclusively(self, work: Callable[[], None]) -> None:
        """Does something between two steps, while nobody else uses the model."""


class Model(Protocol):
    """What has such a host, such as :class:`hornbeam.LM`."""

    @property
    def engine(self) -> Host:
        """The host."""


def observe(
    lm: Model,
    token_ids: Sequence[int],
    see: Callable[[int, Seen], None],
    *,
    layers: Collection[int] | None = None,
) -> dict[int, str]:
    """Reads a text densely, and shows the queries, keys and values of each layer as attention meets them.

    One layer is held at a time, unless ``see`` holds more. Nothing of the text stays in the cache.

    Args:
        lm: the model, a :class:`hornbeam.LM`.
        token_ids: the text.
        see: called as ``see(layer, seen)``, from the first layer to the last.
        layers: only these; all by default.

    Returns:
        The layers that were not shown though they were asked for, and why: those that do more than a softmax
        over all that lies before a row.

    Raises:
        ArgumentError: no tokens, or a layer that the model has not.
    """
    host, tokens = lm.engine, list(token_ids)
    if not tokens:
        raise ArgumentError("the text has no tokens, expected at least one")
    passed: dict[int, str] = {}

    def work() -> None:
        count = host.runner.shape.num_layers
        if unknown := sorted(set(layers or ()) - set(range(count))):
            raise ArgumentError(f"layer is {unknown[0]}, expected 0 to {count - 1}")
        branch = host.tree.branch()
        try:
            with host.tree.step([(branch, tokens, None)], owner=host) as step:
                observer = _Observer(host, branch, len(tokens), see, layers, passed)
                host.forward(step, logits_rows=[0], observer=observer)
        finally:
            branch.drop(keep=False)

    host.exclusively(work)
    return passed


class _Observer:
    """Called by attention, in each layer, when the layer's keys are in their pages."""

    def __init__(
        self,
        host: Host,
        branch: Any,
        num_tokens: int,
        see: Callable[[int, Seen], None],
        layers: Collection[int] | None,
        passed: dict[int, str],
    ) -> None:
        self.host, self.branch, self.num_tokens = host, branch, num_tokens
        self.see, self.layers, self.passed = see, layers, passed
        self.table: KeyTable | None = None  # that of the step, from the first layer on

    def __call__(self, module: torch.nn.Module, layer: int, query: Tensor, options: dict[str, Any]) -> None:
        """``query [H, N, D]``, rotated; ``layer`` is the one whose pages hold the keys."""
        index: int = module.layer_idx  # type: ignore[assignment]
        if self.layers is not None and index not in self.layers:
            return
        window = options.get("sliding_window")
        if window is not None and window < self.num_tokens:
            self.passed[index] = f"a window of {window} tokens"
        elif options.get("softcap") is not None:
            self.passed[index] = "a cap on its scores"
        elif options.get("s_aux") is not None:
            self.passed[index] = "learned sinks"
        else:
            keys, values = self._keys_and_values(layer)
            scale = options.get("scaling")
            factor = float(query.shape[2] ** -0.5 if scale is None else scale)
            self.see(index, Seen(query.detach().cpu(), keys, values, factor))

    def _keys_and_values(self, layer: int) -> tuple[Tensor, Tensor]:
        tree = self.host.tree
        if self.table is None:
            self.table = tree.key_table(self.branch, in_step=True)
        # They come in float32, which holds every element of the pages.
        keys, values = self.table.layer_rows(tree.chunks, layer, tree.num_kv_heads)
        return keys.to(tree.dtype), values.to(tree.dtype)
