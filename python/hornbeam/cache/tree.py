"""The prefix tree: every draft, beam, sample and chat is a branch of one tree of KV pages.

The tree decides which slot of which page each token's keys and values lie in; the pages are plain
torch tensors, ``PrefixTree.chunks``. A forward pass is a *step*: its rows are written past what is
committed, and only :meth:`Step.commit` makes some of them part of the tree::

    tokens = lm.tokenizer(prompt)["input_ids"]
    branch = lm.tree.match(tokens, max_tokens=len(tokens) - 1)
    with lm.tree.step([(branch, tokens[branch.length :], None)]) as step:
        logits = lm.engine.forward(step).logits
        step.commit([range(step.num_rows)])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hornbeam.cache.branch import Branch
from hornbeam.cache.key_table import KeyTable
from hornbeam.cache.pool import PagePool
from hornbeam.cache.step import Step
from hornbeam.errors import ArgumentError
from hornbeam.integers import integer_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Branch", "PrefixTree", "Step"]

TokenIds = Sequence[int] | Tensor | np.ndarray
Request = tuple["Branch", TokenIds, "TokenIds | None"]


class PrefixTree(PagePool):
    """A prefix tree of KV pages over a pool of torch tensors.

    Args:
        num_layers: layers of the model.
        num_kv_heads: key-value heads of a layer.
        head_dim: elements of a key, and of a value.
        dtype: of the pages: float32, bfloat16 or float16.
        device: of the pages.
        page_tokens: tokens of a page.
        max_bytes: hard limit of the pages' memory. The pool grows to it, then releases cached
            branches, least recently used first, then raises OutOfPages and changes nothing. Without
            a limit the cache may hold as much as everything else.
        layer_map: physical layer of each layer, for models whose layers share keys and values;
            ``[0, 1, 1]`` lets layers 1 and 2 share.
        slabs_per_chunk: slabs (`page_tokens` tokens of all layers and heads) that the pool grows by.
        chunk_tokens: where ``slabs_per_chunk`` is not given: the pool grows by no more tokens, rounded up
            to slabs. The less, the closer the memory is to what is held, and the more tensors there are.
    """

    # --- branches ---

    def branch(self) -> Branch:
        """An empty branch."""
        return Branch(self, self._native, self._native.branch())

    def match(self, token_ids: TokenIds, *, max_tokens: int | None = None) -> Branch:
        """A branch at the longest prefix of `token_ids` that the tree holds exactly.

        ``branch.length`` says how long it is; nothing of it needs to be computed again. Prefixes
        whose keys were evicted or quantised are never matched.

        Args:
            token_ids: list, or int32 or int64 tensor or array on the CPU.
            max_tokens: match at most this many, for example all but the last, whose logits are wanted.
        """
        self._make_moves()
        return Branch(self, self._native, self._native.matching(token_ids, max_tokens))

    # --- steps ---

    def step(
        self, requests: Sequence[Request], *, owner: object = None, exact: bool | Sequence[bool] = True
    ) -> Step:
        """Open a step: reserve rows for new tokens of several branches.

        A step that is neither committed nor rolled back ends with its last reference. Where an exception
        keeps one alive, :meth:`recover` ends it.

        Args:
            requests: ``(branch, token_ids, parents)``, at most one a branch. ``parents[i]`` is the
                index within the request of token ``i``'s parent, before it, or -1 for a child of the
                branch's end; None is a chain.
            owner: whoever may :meth:`recover` the step; an object that lives longer than it.
            exact: whether the keys will be those of the whole model over all keys before; of all requests,
                or one truth value each. What is committed of others, such as those of a pass through some
                layers or of rows that read a part of the keys, is never matched and not kept.

        Raises:
            StateError: a step is open, a branch is closed or named twice.
            ArgumentError: no tokens, a token id or a parent out of range; or ``exact`` has not one value a
                request.
            OutOfPages: the budget does not hold the rows, or there is no memory for them; nothing was
                changed.
        """
        plain = []
        for branch, tokens, parents in requests:
            if branch.tree is not self:
                raise ArgumentError("branch is of another tree, expected one of this tree")
            plain.append((branch._id, tokens, parents))
        flags = [exact] * len(plain) if isinstance(exact, bool) else [bool(one) for one in exact]
        if len(flags) != len(plain):
            raise ArgumentError(f"exact has {len(flags)} values, expected one a request, {len(plain)}")
        self._make_moves_on_device()
        asked = (plain, _number(owner), flags)
        while isinstance(opened := self._native.begin(*asked, self._host_chunks), int):
            self._grow(opened)
        self._make_moves_on_device()
        is_chain = len(requests) == 1 and requests[0][2] is None
        return Step(self, [request[0] for request in requests], opened, is_chain)

    # --- memory ---

    def clear(self) -> None:
        """Release what no branch and no pin needs. Its memory stays in the pool, see :meth:`trim`."""
        self._native.clear()

    def recover(self, owner: object = None) -> None:
        """End what an interrupted call has left open.

        The open step, if it was opened for `owner` (see :meth:`step`), is rolled back. Copies that a commit
        or a reduction decided on and could not make are made.
        """
        self._native.recover(_number(owner))
        self._make_moves()

    @property
    def has_open_step(self) -> bool:
        """Whether a step is open."""
        return self._native.has_open_step()

    def invalidate(self) -> None:
        """The model has changed: nothing that the tree holds now is matched again.

        What no branch and no pin needs is released. Branches and pins hold and show what they did, and a
        branch can be extended; with its release its tokens go. A step that is open counts as of before.
        """
        self._native.invalidate()

    def rows_to_spare(self) -> int:
        """The rows that a step can have without a cached prefix being released for them."""
        return self._native.rows_to_spare()

    def stats(self) -> dict[str, int]:
        """Counts: ``nodes``, ``branches``, ``tokens``, and slabs: all, free, provisional, cached, broken."""
        return self._native.stats()

    def debug_check(self) -> None:
        """Raise AssertionError with the first invariant that does not hold. Walks everything."""
        self._native.debug_check()
        assert len(self.chunks) * self.slabs_per_chunk == self.stats()["slabs"], "chunks and slabs differ"

    # --- versions and columns ---

    def compact(
        self, branch: Branch, node: int, keep: TokenIds | Sequence[TokenIds], *, digest: int, by_head: bool
    ) -> None:
        """Give `branch` a version of one of its nodes that shows only some keys.

        Args:
            branch: the branch that asked; others keep the old version.
            node: id of a node on its path, see :meth:`nodes`.
            keep: ascending indices into the keys that the node shows; with `by_head`, one list a plane.
            digest: not 0; says what made the version inexact.
            by_head: planes differ.

        Raises:
            StateError: a step is open, or the node is not on the branch or has keys in codes.
            ArgumentError: ``digest`` is 0, indices are not ascending indices of keys, or one list is given
                for a node whose planes differ.
            ShapeError: more or fewer lists than planes.
            OutOfPages: the copies do not fit; nothing was changed.
        """
        lists = list(keep) if by_head else [keep]
        self._change(lambda chunks: self._native.compact(branch._id, node, lists, digest, by_head, chunks))

    def quantise(
        self,
        branch: Branch,
        node: int,
        formats: Sequence[str | None] | Sequence[Sequence[str | None]],
        *,
        digest: int,
        by_head: bool,
        partial: bool = False,
    ) -> None:
        """Give `branch` a version of one of its nodes with keys and values in pages of codes.

        A page keeps its bytes and holds more tokens, see :meth:`page_tokens_of`. Of each format whole pages
        are filled, in the order of the keys; what does not fill one stays plain, unless ``partial``. Keys
        that are in codes already stay as they are, whatever is asked. The version shows the keys in codes
        first, format by format, then the plain ones.

        Args:
            branch: the branch that asked; others keep the old version.
            node: id of a node on its path, see :meth:`nodes`.
            formats: a name of :func:`hornbeam.ops.page_formats` or None for each key that the node shows;
                with `by_head`, one list a plane.
            digest: not 0; says what made the version inexact.
            by_head: planes differ.
            partial: the last page of a format may be short.

        Raises:
            ArgumentError: no such format, keys with elements beyond 65504, or a node by head and one list;
                nothing was changed.
            ShapeError: lists of other lengths.
            OutOfPages: the new pages do not fit; nothing was changed.
        """
        plain: Any = formats
        lists = [self._numbers(names) for names in (plain if by_head else [plain])]
        options = (lists, partial, digest, by_head)
        self._encode(lambda chunks, report: self._native.quantise(branch._id, node, *options, chunks, report))

    def _numbers(self, formats: Any) -> Any:
        """The numbers of formats, named or not."""
        if isinstance(formats, Tensor | np.ndarray):
            return integer_tensor(formats, "formats", torch.int32)
        known = self.page_formats()
        unknown = [name for name in formats if name is not None and name not in known]
        if unknown:
            raise ArgumentError(f"format is {unknown[0]}, expected one of {', '.join(known)}")
        return [0 if name is None else known[name][0] for name in formats]

    def condense(
        self,
        branch: Branch,
        keep: Sequence[TokenIds],
        *,
        digest: int,
        formats: Sequence[Sequence[str | None] | Tensor | np.ndarray] | None = None,
        table: KeyTable | None = None,
    ) -> KeyTable:
        """Give `branch` one node in place of its path, which shows only some of its keys. Returns the table
        of what it shows then.

        Where nobody else reads what the branch shows, its pages are given up first, so that the copy
        needs no memory; after a small cut only what fills the holes is copied. Keys in codes do not move:
        a page of them stays as long as it shows one.

        Args:
            branch: the branch that asked; others keep what they have.
            keep: one list a plane, ascending indices into the keys that the plane shows, in order of
                position.
            digest: not 0; says what made the version inexact.
            formats: one list a plane: a name of :func:`hornbeam.ops.page_formats` or None for each kept
                key, or integers, numbers of formats and 0. Of each format whole pages are filled, in order;
                what does not fill one stays plain, and what is in codes already stays as it is.
            table: what :meth:`key_table` gives of the branch, where the caller has it already.

        Raises:
            StateError: a step is open, or ``table`` is not what the branch shows now.
            ArgumentError: no such format, elements beyond 65504, or codes in slabs (:meth:`quantise` without
                ``by_head``) where planes are to differ or formats are given.
            ShapeError: lists of other lengths.
            OutOfPages: the copies do not fit; nothing was changed.
        """
        table = self.key_table(branch) if table is None else table
        shown = table.split(table.positions)
        indices = [integer_tensor(keys, "keep", torch.int32).cpu().numpy() for keys in keep]
        by_head = formats is not None or not all(
            np.array_equal(keys, indices[0])
            and (table.is_even or np.array_equal(plane[keys], shown[0][keys]))
            for plane, keys in zip(shown, indices, strict=True)
        )
        if not by_head and table.formats.any():
            # Pages in codes stay what they are, those of slabs or of single heads.
            by_head = any(self._native.keys(branch._id, 0)[:, 0])
        lists = indices if by_head else indices[:1]
        codes = None if formats is None else [self._numbers(names) for names in formats]
        options = (table.native, lists, codes, digest, by_head)
        now = self._encode(lambda chunks, report: self._native.condense(branch._id, *options, chunks, report))
        return KeyTable(now)

    def key_table(self, branch: Branch, *, in_step: bool = False) -> KeyTable:
        """The keys that the planes of a branch show; with ``in_step`` those of its rows in the open step too,
        which must be a chain. It walks all keys: whoever has a table hands it on.

        Args:
            branch: which one.
            in_step: with the rows of the open step.
        """
        return KeyTable(self._native.key_table(branch._id, in_step))

    def slots(self, branch: Branch) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The slot within its page and the position of every key that the first plane of a branch shows,
        int32 `[num_keys]` each. It walks all keys.

        Args:
            branch: which one.
        """
        keys = self._native.keys(branch._id, 0)
        return keys[:, 2], keys[:, 3]

    def nodes(self, branch: Branch) -> list[tuple[int, int, int, int, int]]:
        """(id, first position, tokens, keys shown, digest) of each node of a branch, from the root.

        Args:
            branch: which one.
        """
        return self._native.path_nodes(branch._id)

    def add_column(self, name: str, scope: str, dtype: torch.dtype, shape: tuple[int, ...] = ()) -> None:
        """Keep numbers beside slots, pages or nodes; they follow what they describe. New ones are 0, and
        those of a page are 0 again as soon as one of its slots is written.

        Args:
            name: not taken yet.
            scope: ``"slot"``, ``"page"`` or ``"node"``.
            dtype: of the elements.
            shape: of the part that describes one slot, page or node.

        Raises:
            ArgumentError: the name is taken, or there is no such scope.
        """
        count = int(np.prod(shape, dtype=np.int64))
        self._native.add_column(name, scope, count * dtype.itemsize)
        self._columns[name] = (scope, dtype, tuple(shape))

    def column(self, name: str, chunk: int = 0) -> Tensor:
        """A copy of a column's part: `[num_planes, slabs_per_chunk, page_tokens, *shape]` for slots,
        `[num_planes, slabs_per_chunk, *shape]` for pages, `[num_node_indices, *shape]` for nodes.

        Args:
            name: of a column that :meth:`add_column` registered.
            chunk: index into :attr:`chunks`; of no account for nodes.
        """
        data = self._native.column(name, chunk)
        scope, dtype, shape = self._columns[name]
        lead: dict[str, tuple[int, ...]] = {
            "slot": (self.num_planes, self.slabs_per_chunk, self.page_tokens),
            "page": (self.num_planes, self.slabs_per_chunk),
            "node": (-1,),
        }
        if len(data) == 0:
            return torch.zeros((0, *shape), dtype=dtype, device="cpu")
        return torch.frombuffer(data, dtype=dtype).reshape(*lead[scope], *shape)

    def set_column(self, name: str, values: Tensor, chunk: int = 0) -> None:
        """Write a column's part, shaped as :meth:`column` returns it.

        Args:
            name: of the column.
            values: the part.
            chunk: as for :meth:`column`.
        """
        self._native.set_column(name, chunk, values.contiguous().view(torch.uint8).numpy().tobytes())

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"PrefixTree(branches={stats['branches']}, tokens={stats['tokens']}, num_bytes={self.num_bytes})"
        )


def _number(owner: object) -> int:
    """Names the owner of a step; 0 is nobody."""
    return 0 if owner is None else id(owner)
