"""The pool of pages under a prefix tree: it grows, gives back, and copies what a tree decides on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hornbeam import _native, cuda
from hornbeam.errors import ArgumentError, OutOfPages
from hornbeam.ops.pages import page_formats

__all__ = ["PagePool"]

#: Bytes of a chunk unless the caller says how many slabs it has.
CHUNK_BYTES = 64 << 20

#: The largest element of a key or value that a page in codes can hold.
LARGEST = 65504
#: Rows that are read from a device at once.
ROWS_AT_ONCE = 1 << 16

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


class PagePool:
    """The pages of a :class:`~hornbeam.cache.tree.PrefixTree`, which says what the arguments are."""

    def __init__(
        self,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        page_tokens: int = 16,
        max_bytes: int | None = None,
        layer_map: Sequence[int] | None = None,
        slabs_per_chunk: int | None = None,
        chunk_tokens: int | None = None,
    ) -> None:
        if dtype not in _DTYPES:
            raise ArgumentError(f"dtype is {dtype}, expected float32, bfloat16 or float16")
        sizes = {"num_layers": num_layers, "num_kv_heads": num_kv_heads, "head_dim": head_dim}
        for name, size in (sizes | {"page_tokens": page_tokens}).items():
            if size < 1:
                raise ArgumentError(f"{name} is {size}, expected at least 1")
        self.layer_map = tuple(range(num_layers) if layer_map is None else layer_map)
        physical = max(self.layer_map) + 1
        if len(self.layer_map) != num_layers or set(self.layer_map) != set(range(physical)):
            raise ArgumentError(
                f"layer_map is {layer_map}, "
                f"expected {num_layers} physical layers numbered from 0 without gaps"
            )
        self.num_layers = num_layers
        self.num_physical_layers = physical
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.page_tokens = page_tokens
        self.num_planes = physical * num_kv_heads
        self.dtype = dtype
        self.device = torch.device(device)
        #: Bytes of `page_tokens` tokens on all layers and heads: the unit of allocation.
        self.slab_bytes = self.num_planes * 2 * page_tokens * head_dim * dtype.itemsize
        self.max_bytes = max_bytes
        limit = 4096 if chunk_tokens is None else -(-chunk_tokens // page_tokens)
        wanted = slabs_per_chunk or max(1, min(limit, CHUNK_BYTES // self.slab_bytes))
        max_chunks = None
        if max_bytes is not None:
            total = max_bytes // self.slab_bytes
            if total < 1:
                raise OutOfPages(
                    f"max_bytes is {max_bytes}, expected at least {self.slab_bytes}, "
                    f"the bytes of one slab of {page_tokens} tokens"
                )
            # Chunks of equal size that waste less than a slab each of the budget.
            max_chunks = -(-total // wanted) if slabs_per_chunk is None else max(1, total // wanted)
            wanted = min(wanted, total // max_chunks)
        self.slabs_per_chunk = wanted
        #: The pool: tensors `[num_planes, slabs_per_chunk, 2, page_tokens, head_dim]`.
        self.chunks: list[Tensor] = []
        #: Shape of a chunk.
        self.layout = (self.num_planes, wanted, 2, page_tokens, head_dim)
        self.peak_bytes = 0
        self._native = _native.Tree(
            self.num_planes, wanted, page_tokens, head_dim, _DTYPES[dtype], max_chunks
        )
        self._columns: dict[str, tuple[str, torch.dtype, tuple[int, ...]]] = {}

    def _grow(self, num_chunks: int) -> None:
        try:
            # Zeros, so that a kernel may load slots that it then masks out.
            fresh = [
                torch.zeros(self.layout, dtype=self.dtype, device=self.device) for _ in range(num_chunks)
            ]
        except (MemoryError, RuntimeError) as error:  # torch raises either, by device
            wanted = num_chunks * self.slabs_per_chunk * self.slab_bytes
            raise OutOfPages(
                f"{wanted} bytes of pages cannot be allocated on {self.device}: {error}"
            ) from error
        for chunk in fresh:
            self._native.add_chunk(self.chunks, chunk)
        self.peak_bytes = max(self.peak_bytes, self.num_bytes)

    def _change(self, attempt: Callable[[list[Tensor] | None], Any]) -> Any:
        """Repeats a change, which says how many chunks it lacks, until it lacks none; then copies. Returns
        what the change gives."""
        self._make_moves_on_device()
        while isinstance(done := attempt(self._host_chunks), int) and done:
            self._grow(done)
        self._make_moves_on_device()
        return done

    def _encode(self, attempt: Callable[[list[Tensor] | None, bool], Any]) -> Any:
        """As :meth:`_change`, of a change that encodes keys; told to, it only says which."""
        if self._host_chunks is None:
            self._make_moves_on_device()
            slots = attempt(None, True)
            for begin in range(0, len(slots) if isinstance(slots, np.ndarray) else 0, ROWS_AT_ONCE):
                entries = np.pad(slots[begin : begin + ROWS_AT_ONCE], ((0, 0), (0, 1)))
                if not bool((cuda.gather_rows(self.chunks, entries).abs() <= LARGEST).all()):
                    raise ArgumentError(
                        f"an element of a page to encode is NaN or too large, expected at most {LARGEST}"
                    )
        return self._change(lambda chunks: attempt(chunks, False))

    @property
    def _host_chunks(self) -> list[Tensor] | None:
        """The pool, if the tree itself makes copies in it; on a device kernels do."""
        return None if self.chunks and cuda.is_on_device(self.chunks[0]) else self.chunks

    def _make_moves(self) -> None:
        """Makes the copies that an earlier call decided on and could not make."""
        if (chunks := self._host_chunks) is not None:
            self._native.make_moves(chunks)
        else:
            self._make_moves_on_device()

    def _make_moves_on_device(self) -> None:
        """Makes the copies that are still to be made, if the pages are on a device. The launch that writes to
        pages which a copy reads says itself that it was made: twice would be wrong."""
        while self._host_chunks is None and (batch := self._native.next_moves()) is not None:
            number, kind, moves, format_number, codes = batch
            made = (self._native, number)
            tokens = dict(self.page_formats().values())
            if format_number:
                by_page = kind == "pages"
                cuda.quantise_pages(self.chunks, moves, format_number, tokens[format_number], by_page=by_page)
            elif kind == "at_once":
                together = [(code, tokens[code], own) for code, own in codes if len(own)]
                if len(moves) or together:
                    cuda.condense_pages(self.chunks, moves, together, made)
            else:
                cuda.move_rows(self.chunks, moves, by_page=kind == "pages", made=made)
            self._native.confirm_moves(number)

    @property
    def num_bytes(self) -> int:
        """Bytes of all pages that are allocated now."""
        return len(self.chunks) * self.slabs_per_chunk * self.slab_bytes

    def trim(self) -> int:
        """Give back the empty chunks at the end of the pool; returns the bytes freed."""
        dropped = self._native.trim(self.chunks)
        return dropped * self.slabs_per_chunk * self.slab_bytes

    def page_tokens_of(self, format: str | None) -> int:
        """Tokens of a page in ``format``: a name of :func:`hornbeam.ops.page_formats`, or None, plain."""
        return self.page_tokens if format is None else self.page_formats()[format][1]

    def page_formats(self) -> dict[str, tuple[int, int]]:
        """As :func:`hornbeam.ops.page_formats`, of the pages of this tree."""
        # One page has the shape of any.
        return page_formats(torch.empty(1, 1, *self.layout[2:], dtype=self.dtype, device="cpu"))
