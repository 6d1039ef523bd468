"""The attention that a model calls while hornbeam drives it: over pages, by the plan of a step.

transformers calls one function for every layer, with the module that asks. Keywords of the model's forward
pass are handed on by some architectures only; but the modules are hornbeam's own copies, so each of them
knows what answers the pass under way (:class:`Pass`): the step's own attention, which has pages and plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from hornbeam import _native, cuda, ops
from hornbeam._native import STREAM_QUERIES
from hornbeam.errors import MissingExtra, StateError
from hornbeam.machine.operation import Operation

if TYPE_CHECKING:
    from hornbeam._native import Plan
    from hornbeam.cache.tree import PrefixTree
    from hornbeam.model.layers import Tap
    from hornbeam.model.shape import ModelShape
    from hornbeam.model.sparse import SparseChunk, SparseRows
    from hornbeam.model.switch import Cells, Switch

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

# A chain of at least this many rows without a prefix goes to torch's fused causal attention, where nothing
# else was measured.
DENSE_ROWS = 96

#: The kernels of a chain without a prefix.
DENSE_KERNELS = ("torch", "hornbeam")
#: The ways in which tree attention reads keys: directly, or in tiles.
TREE_KERNELS = ("direct", "tiles")
#: More queries than a block of rows has.
ALL_QUERIES = 1 << 16

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
        switch: Switch | None = None,
        batch_invariant: bool = False,
    ) -> None:
        self.observer = observer
        #: Whether the bits of a row may not depend on the others: then one kernel answers all.
        self.batch_invariant = batch_invariant
        self.sparse_rows = sparse_rows
        self.sparse_chunk = sparse_chunk
        self.tree = tree
        self.chunks = tree.chunks
        self.layer_map = tree.layer_map
        self.plan = plan
        self.num_kv_heads = shape.num_kv_heads
        self.num_rows = plan.num_rows
        self.tap: Tap | None = None
        self.rounds = tree.dtype != shape.dtype
        #: Whether the kernels of a device do the work; else the core does, and is called without detours.
        self.on_device = cuda.is_on_device(tree.chunks[0])
        #: Whether torch's dense attention answers where it can.
        self.dense = is_dense and self.num_rows >= DENSE_ROWS and not batch_invariant
        self._trees: Cells | None = None
        self._denses: Cells | None = None
        if switch is not None and not self.on_device and not batch_invariant:
            self._choose(switch, shape, is_dense)

    def _choose(self, switch: Switch, shape: ModelShape, is_dense: bool) -> None:
        """Takes the kernels that were measured fastest."""
        sizes = (shape.num_heads, shape.num_kv_heads, shape.head_dim)
        dtype = str(self.tree.dtype).removeprefix("torch.")
        group = shape.num_heads // shape.num_kv_heads
        self._trees = switch.cells(
            Operation("tree_attention", sizes, dtype),
            TREE_KERNELS,
            lambda rows: TREE_KERNELS[rows * group > STREAM_QUERIES],
        )
        self._tree = self._trees.at(self.num_rows)
        # What not all rows see may be read directly in any case.
        self._limits = (ALL_QUERIES, STREAM_QUERIES if self.num_rows * group > STREAM_QUERIES else 0)
        if is_dense:
            dtype = str(shape.dtype).removeprefix("torch.")
            self._denses = switch.cells(
                Operation("dense_attention", sizes, dtype),
                DENSE_KERNELS,
                lambda rows: DENSE_KERNELS[rows < DENSE_ROWS],
            )
            self._dense = self._denses.at(self.num_rows)
            self.dense = self._dense.is_first

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
        scale = options.get("scaling")
        plain = soft_cap is None and sinks is None and (window is None or window >= self.num_rows)
        if plain and self.sparse_chunk is not None:
            keys, values = self._rounded(key, value)
            found = self.sparse_chunk.attention(index, layer, query[0], keys[0], values[0], scale)
            if found is not None:
                return found.unsqueeze(0)
        rows = query.squeeze(0).transpose(0, 1)

        def over_pages() -> torch.Tensor:
            return self._over_pages(index, layer, rows, scale, window, soft_cap, sinks)

        if plain and self._denses is not None:
            self._dense.calls -= 1
            if self._dense.calls < 0:
                kernels: dict[str, Callable[[], torch.Tensor | None]] = {
                    "torch": partial(self._by_torch, query, key, value, scale),
                    "hornbeam": over_pages,
                }
                found = self._denses.timed(self._dense, self.num_rows, kernels)
                return over_pages() if found is None else found
        if self.dense and plain and (found := self._by_torch(query, key, value, scale)) is not None:
            return found
        return over_pages()

    def _rounded(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values as the pages hold them."""
        if not self.rounds:
            return key, value
        return key.to(self.tree.dtype).to(key.dtype), value.to(self.tree.dtype).to(value.dtype)

    def _by_torch(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor | None:
        """The attention of a chain without a prefix; None where a key is not finite."""
        key, value = self._rounded(key, value)
        # To ask a device would be to wait for it; there a masked score is set, not added to.
        on_cpu = query.device.type == "cpu"
        if on_cpu and not _is_finite(key):
            return None
        beside = None
        if not on_cpu or not _is_finite(value):
            value, beside = _without_infinities(value)
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=True
        )
        if beside is not None:
            out = out + beside.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
        return out.transpose(1, 2).contiguous()

    def _over_pages(
        self,
        index: int,
        layer: int,
        rows: torch.Tensor,
        scale: float | None,
        window: int | None,
        soft_cap: float | None,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """The attention of rows ``[N, H, D]`` over pages: ``[1, N, H, D]``."""
        out = torch.empty_like(rows, memory_format=torch.contiguous_format)
        if sinks is not None:
            sinks = sinks.detach().float().contiguous()
        heads = self.num_kv_heads
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
            return out.unsqueeze(0)
        plan: Plan = self.plan  # type: ignore[assignment]
        asked = (rows, self.chunks, plan, out, None, layer, heads, scale, window, soft_cap, sinks)
        if self.sparse_rows is not None:
            chosen = self.sparse_rows.selection(index, layer, rows, scale)
            if chosen is not None:
                _native.tree_attention(*asked, selection=chosen, batch_invariant=self.batch_invariant)
                return out.unsqueeze(0)
        if self._trees is None:
            _native.tree_attention(*asked, batch_invariant=self.batch_invariant)
            return out.unsqueeze(0)
        self._tree.calls -= 1
        if self._tree.calls < 0:
            ways = {
                name: partial(_native.tree_attention, *asked, stream_queries=limit)
                for name, limit in zip(TREE_KERNELS, self._limits, strict=True)
            }
            self._trees.timed(self._tree, self.num_rows, ways)
        else:
            _native.tree_attention(*asked, stream_queries=self._limits[not self._tree.is_first])
        return out.unsqueeze(0)


def _is_finite(x: torch.Tensor) -> bool:
    return bool(x.sum(dtype=torch.float32).isfinite())


def _without_infinities(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values ``[1, Hk, N, D]`` with zeros for infinities and NaN, and what these add to each row of a chain:
    torch weighs the values that a row does not see with 0, and 0 times those would be NaN."""
    finite = torch.where(value.isfinite(), value, 0)
    return finite, (value - finite).cumsum(dim=2)
