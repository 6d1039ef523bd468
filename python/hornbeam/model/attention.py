"""The attention that a model calls while hornbeam drives it: over pages, by the plan of a step.

transformers calls one function for every layer, with the module that asks. Keywords of the model's forward
pass are handed on by some architectures only; but the modules are hornbeam's own copies, so each of them
knows what answers the pass under way (:class:`Pass`): the step's own attention, which has pages and plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch

from hornbeam import _native, cuda, ops
from hornbeam.errors import MissingExtra, StateError

if TYPE_CHECKING:
    from hornbeam._native import Plan
    from hornbeam.cache.tree import PrefixTree
    from hornbeam.model.layers import Tap
    from hornbeam.model.shape import ModelShape
    from hornbeam.model.sparse import SparseChunk, SparseRows

__all__ = [
    "ATTENTION_NAME",
    "DENSE_ROWS",
    "PASS_ATTRIBUTE",
    "Attention",
    "Observer",
    "PagedAttention",
    "Pass",
    "register",
]

ATTENTION_NAME = "hornbeam"
#: Under this name every copy of a module has the :class:`Pass` of its copies.
PASS_ATTRIBUTE = "_hornbeam_pass"

# A chain of at least this many rows without a prefix goes to torch's fused causal attention.
DENSE_ROWS = 96

#: Called as ``observer(module, physical layer, queries [H, N, D] after the rotation, options of attention)``.
Observer = Callable[[torch.nn.Module, int, torch.Tensor, dict[str, Any]], None]


class Attention(Protocol):
    """Answers the call of one layer: ``query [1, H, N, D]``, ``key`` and ``value [1, Hk, N, D]``; gives
    ``[1, N, H, D]``."""

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor: ...


class Pass:
    """What answers the attention of the pass that runs on some copies of modules; they run one at a time."""

    def __init__(self) -> None:
        self.attention: Attention | None = None

    @contextmanager
    def answered_by(self, attention: Attention) -> Iterator[None]:
        """For as long as a forward pass runs."""
        before, self.attention = self.attention, attention
        try:
            yield
        finally:
            self.attention = before


def register() -> None:
    """Makes hornbeam's attention known to transformers.

    Raises:
        MissingExtra: transformers is not installed, or older than 5.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("hornbeam.LM needs transformers: pip install 'hornbeam[hf]'") from error
    if int(transformers.__version__.split(".")[0]) < 5:
        raise MissingExtra(
            f"transformers is {transformers.__version__}, expected 5 or newer: pip install -U 'hornbeam[hf]'"
        )
    transformers.AttentionInterface.register(ATTENTION_NAME, _attention_function)


def _attention_function(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls: ``query [1, H, N, D]``, ``key`` and ``value``
    ``[1, Hk, N, D]``; gives ``[1, N, H, D]``."""
    under_way: Pass | None = getattr(module, PASS_ATTRIBUTE, None)
    if under_way is None or under_way.attention is None:
        raise StateError("the attention implementation 'hornbeam' runs inside hornbeam.LM only")
    return under_way.attention(module, query, key, value, attention_mask, options), None


class PagedAttention:
    """Writes the rows' keys and values to their pages, then lets every row read what its plan shows."""

    def __init__(
        self,
        tree: PrefixTree,
        shape: ModelShape,
        plan: Plan | cuda.DevicePlan,
        *,
        is_dense: bool = False,
        observer: Observer | None = None,
        sparse_rows: SparseRows | None = None,
        sparse_chunk: SparseChunk | None = None,
    ) -> None:
        self.observer = observer
        self.sparse_rows = sparse_rows
        self.sparse_chunk = sparse_chunk
        self.tree = tree
        self.chunks = tree.chunks
        self.layer_map = tree.layer_map
        self.plan = plan
        self.num_kv_heads = shape.num_kv_heads
        self.num_rows = plan.num_rows
        self.dense = is_dense and self.num_rows >= DENSE_ROWS
        self.tap: Tap | None = None
        self.rounds = tree.dtype != shape.dtype
        #: Whether the kernels of a device do the work; else the core does, and is called without detours.
        self.on_device = cuda.is_on_device(tree.chunks[0])

    def write(self, index: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Writes the rows of a layer, ``[rows, kv heads, head size]``, to their pages."""
        layer, heads = self.layer_map[index], self.num_kv_heads
        if self.on_device:
            ops.write_rows(keys, values, self.chunks, self.plan, layer=layer, num_kv_heads=heads)
        else:
            _native.write_rows(keys, values, self.chunks, self.plan, layer, heads)  # type: ignore[arg-type]
        if self.tap is not None and index < self.tap.layer:
            self.tap.keys[index], self.tap.values[index] = keys, values

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        index: int = module.layer_idx  # type: ignore[assignment]
        if key.dtype != query.dtype or value.dtype != query.dtype:
            # Autocast leaves what was rotated in float32, and casts the values.
            key, value = key.to(query.dtype), value.to(query.dtype)
        self.write(index, key.squeeze(0).transpose(0, 1), value.squeeze(0).transpose(0, 1))
        layer = self.layer_map[index]
        if self.observer is not None:
            self.observer(module, layer, query.squeeze(0), options)
        window = options.get("sliding_window")
        soft_cap = options.get("softcap")
        sinks = options.get("s_aux")
        scale, heads = options.get("scaling"), self.num_kv_heads
        plain = soft_cap is None and sinks is None and (window is None or window >= self.num_rows)
        if plain and self.rounds and (self.dense or self.sparse_chunk is not None):
            key = key.to(self.tree.dtype).to(query.dtype)
            value = value.to(self.tree.dtype).to(query.dtype)
        if plain and self.sparse_chunk is not None:
            found = self.sparse_chunk.attention(index, layer, query[0], key[0], value[0], scale)
            if found is not None:
                return found.unsqueeze(0)
        if self.dense and plain:
            # To ask a device would be to wait for it; there a masked score is set, not added to.
            on_cpu = query.device.type == "cpu"
            if not on_cpu or _is_finite(key):
                beside = None
                if not on_cpu or not _is_finite(value):
                    value, beside = _without_infinities(value)
                out = torch.nn.functional.scaled_dot_product_attention(
                    query, key, value, is_causal=True, scale=scale, enable_gqa=True
                )
                if beside is not None:
                    out = out + beside.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
                return out.transpose(1, 2).contiguous()
        rows = query.squeeze(0).transpose(0, 1)
        out = torch.empty_like(rows, memory_format=torch.contiguous_format)
        if sinks is not None:
            sinks = sinks.detach().float().contiguous()
        if self.on_device:
            ops.tree_attention(
                rows,
                self.chunks,
                self.plan,
                layer=layer,
                num_kv_heads=heads,
                scale=scale,
                window=window,
                soft_cap=soft_cap,
                sinks=sinks,
                out=out,
            )
        else:
            plan: Plan = self.plan  # type: ignore[assignment]
            asked = (rows, self.chunks, plan, out, None, layer, heads, scale, window, soft_cap, sinks)
            chosen = None
            if self.sparse_rows is not None:
                chosen = self.sparse_rows.selection(index, layer, rows, scale)
            if chosen is None:
                _native.tree_attention(*asked)
            else:
                _native.tree_attention(*asked, selection=chosen)
        return out.unsqueeze(0)


def _is_finite(x: torch.Tensor) -> bool:
    return bool(x.sum(dtype=torch.float32).isfinite())


def _without_infinities(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values ``[1, Hk, N, D]`` with zeros for infinities and NaN, and what these add to each row of a chain:
    torch weighs the values that a row does not see with 0, and 0 times those would be NaN."""
    finite = torch.where(value.isfinite(), value, 0)
    return finite, (value - finite).cumsum(dim=2)
