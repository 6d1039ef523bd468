"""SGLang's tree verification, by the signatures of ``sgl_kernel``, without importing it.

Trees come as it builds them: node 0 is the token sampled last, ``retrive_next_token`` the first child,
``retrive_next_sibling`` the next child of the same parent, -1 the end; ``retrive_index`` the row in the
flat batch. Names are taken in either of its spellings, ``retrive_`` and ``retrieve_``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.integrations.chains import check, check_tokens

__all__ = [
    "FULL_MASK",
    "QLEN_ONLY",
    "QLEN_ONLY_BITPACKING",
    "build_tree_kernel_efficient",
    "tree_speculative_sampling_target_only",
    "verify_tree_greedy",
]

#: How a mask is written: over text and tree, over the tree alone, or over the tree in bits.
FULL_MASK, QLEN_ONLY, QLEN_ONLY_BITPACKING = 0, 1, 2
#: Dtypes of a mask with one element a flag; the word of so many bytes of one with a bit a flag.
FLAGS = (torch.bool, torch.uint8)
WORDS = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}

Function = TypeVar("Function", bound=Callable[..., None])


def _either_spelling(function: Function) -> Function:
    @functools.wraps(function)
    def called(*arguments: Any, **named: Any) -> None:
        function(*arguments, **{k.replace("retrieve_", "retrive_"): v for k, v in named.items()})

    return called  # type: ignore[return-value]


@_either_spelling
def verify_tree_greedy(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    target_predict: Tensor,
) -> None:
    """Keeps the path of the target's argmax; exact for temperature 0.

    Args:
        predicts: int32 ``[all rows]``, written: the token after each row of the accepted path.
        accept_index: int32 ``[B, S]``, written: rows of the path, the root's first. What is behind
            them keeps its value.
        accept_token_num: int32 ``[B]``, written: accepted draft tokens, at most ``S - 1``.
        candidates: int64 ``[B, N]``, the nodes' tokens.
        retrive_index, retrive_next_token, retrive_next_sibling: int64 ``[B, N]``.
        target_predict: int64 ``[B, N]``, the argmax after each node, read by row.

    Raises:
        ShapeError: a shape or dtype that does not fit.
        ArgumentError: a link or row that leaves the tree.
    """
    trees = _trees(
        predicts,
        accept_index,
        accept_token_num,
        candidates,
        retrive_index,
        retrive_next_token,
        retrive_next_sibling,
    )
    check("target_predict", target_predict, candidates.shape, torch.int64)
    best = target_predict.flatten().tolist()
    for tree in trees:

        def wanted(node: int, children: list[int], tree: _Tree = tree) -> int | None:
            token = best[tree.rows[node]]
            return next((child for child in children if tree.tokens[child] == token), None)

        path = tree.walk(accept_index.shape[1], wanted)
        _write(predicts, accept_index, accept_token_num, tree, path, best[tree.rows[path[-1]]])


@_either_spelling
def tree_speculative_sampling_target_only(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    uniform_samples: Tensor,
    uniform_samples_for_final_sampling: Tensor,
    target_probs: Tensor,
    *rest: Any,
    draft_probs: Tensor | None = None,
    threshold_single: float = 1.0,
    threshold_acc: float = 1.0,
    deterministic: bool = True,
) -> None:
    """Draws from the target and descends where a child holds the token; exact at thresholds of 1, and
    **lossy** below.

    A child is taken if the node's coin falls below the mass of the children up to it over
    ``threshold_acc``, or its own mass reaches ``threshold_single``. Where none is, the next token comes
    from the target without the children. Differs from SGLang where a coin equals a mass exactly: a token
    without mass is rejected at a coin of 0 too. Only a ``threshold_single`` of 0 takes it, as it takes any.

    Args:
        predicts, accept_index, accept_token_num: as :func:`verify_tree_greedy`, written.
        candidates, retrive_index, retrive_next_token, retrive_next_sibling: as :func:`verify_tree_greedy`.
        uniform_samples: float32 ``[B, N]``: a node's coin decides among its children.
        uniform_samples_for_final_sampling: float32 ``[B]``.
        target_probs: float32 ``[B, N, V]``, normalised.
        rest: ``draft_probs, threshold_single, threshold_acc, deterministic`` by position; releases that
            have no ``draft_probs`` leave it out.
        draft_probs: taken and ignored: it is scratch of the kernel.
        deterministic: taken and ignored.
        threshold_single: the mass at which a child is taken whatever the coin; 1 is exact.
        threshold_acc: what the mass of the children so far is divided by; 1 is exact.

    Raises:
        ShapeError: a shape or dtype that does not fit.
        ArgumentError: a link or row that leaves the tree, or a token outside of the vocabulary.
    """
    if rest and (rest[0] is None or isinstance(rest[0], Tensor)):
        rest = rest[1:]
    if len(rest) > 3:
        raise ArgumentError(f"{len(rest)} thresholds and flags are given, expected at most 3")
    threshold_single = rest[0] if len(rest) > 0 else threshold_single
    threshold_acc = rest[1] if len(rest) > 1 else threshold_acc
    trees = _trees(
        predicts,
        accept_index,
        accept_token_num,
        candidates,
        retrive_index,
        retrive_next_token,
        retrive_next_sibling,
    )
    batch, nodes = candidates.shape
    check("uniform_samples", uniform_samples, (batch, nodes))
    check("uniform_samples_for_final_sampling", uniform_samples_for_final_sampling, (batch,))
    check("target_probs", target_probs, (batch, nodes, None))
    check_tokens("candidates", candidates, target_probs.shape[2])
    # One gather brings every child's mass at its parent; the walk then needs no more of the device.
    parents = torch.tensor([tree.parents for tree in trees], device=target_probs.device)
    mass = target_probs[torch.arange(batch, device=parents.device)[:, None], parents, candidates].tolist()
    coins = uniform_samples.tolist()
    threshold_acc = max(threshold_acc, 1e-9)

    paths, last, refused = [], [], []
    for b, tree in enumerate(trees):
        tried: list[int] = []

        def drawn(
            node: int, children: list[int], b: int = b, tree: _Tree = tree, tried: list[int] = tried
        ) -> int | None:
            tried.clear()
            reached = 0.0
            for child in children:
                reached += mass[b][child]
                if coins[b][node] * threshold_acc < reached or mass[b][child] >= threshold_single:
                    tried.clear()
                    return child
                tried.append(tree.tokens[child])
            return None

        paths.append(tree.walk(accept_index.shape[1], drawn))
        last.append(paths[-1][-1])
        refused.append(list(tried))
    law = target_probs[torch.arange(batch), last].float()
    for b, tokens in enumerate(refused):
        law[b, tokens] = 0
    # Rounding may leave nothing where the children hold all the mass; then the target itself decides.
    law = torch.where(law.sum(-1, keepdim=True) > 0, law, target_probs[torch.arange(batch), last].float())
    reached = law.double().cumsum(-1)
    coin = uniform_samples_for_final_sampling.double() * reached[:, -1]
    final = (reached <= coin[:, None]).sum(-1)
    if bool((final >= law.shape[1]).any()):
        raise ArgumentError("target_probs holds a row without mass, or a uniform sample is not below 1")
    for tree, path, token in zip(trees, paths, final.tolist(), strict=True):
        _write(predicts, accept_index, accept_token_num, tree, path, token)


@_either_spelling
def build_tree_kernel_efficient(
    parent_list: Tensor,
    selected_index: Tensor,
    verified_seq_len: Tensor,
    tree_mask: Tensor,
    positions: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    topk: int,
    depth: int,
    draft_token_num: int,
    tree_mask_mode: int = FULL_MASK,
) -> None:
    """Mask, positions and links of EAGLE's selected candidates.

    Candidate ``c`` of ``selected_index`` is child ``c % topk`` of the group ``c // topk``; group 0 hangs
    below the root, group ``g`` below the candidate ``parent_list[g]``.

    Args:
        parent_list: int64 ``[B, topk (depth - 1) + 1]``; ``[B, 0]`` will do where there is one step.
        selected_index: int64 ``[B, draft_token_num - 1]``, sorted.
        verified_seq_len: int64 ``[B]``, tokens before the root.
        tree_mask: written, flat or not; what a larger buffer has more keeps its value. ``FULL_MASK``: bool or
            uint8, for each node a row over the text and the tree, of which only the tree's part is written;
            ``QLEN_ONLY``: bool or uint8 ``[B, N, N]``; ``QLEN_ONLY_BITPACKING``: 1, 2 or 4 bytes a node for
            up to 8, 16 or 32 nodes, as uint8, or one uint16 or uint32 a node.
        positions: int64, ``B N`` in all, written; may be larger too.
        retrive_index, retrive_next_token, retrive_next_sibling: int64 ``[B, N]``, written.
        topk: children of a group.
        depth: steps of drafting.
        draft_token_num: nodes of a tree, the root included.
        tree_mask_mode: ``FULL_MASK`` (0), ``QLEN_ONLY`` (1) or ``QLEN_ONLY_BITPACKING`` (2).

    Raises:
        ShapeError: a shape or dtype that does not fit.
        ArgumentError: a candidate whose parent was not selected, a mask mode that does not exist, or more
            than 32 nodes to pack.
    """
    check("selected_index", selected_index, (None, draft_token_num - 1), torch.int64)
    batch, nodes = selected_index.shape[0], draft_token_num
    check("parent_list", parent_list, (batch, None), torch.int64)
    check("verified_seq_len", verified_seq_len, (batch,))
    _check_links((batch, nodes), retrive_index, retrive_next_token, retrive_next_sibling)
    _check_buffer("positions", positions, batch * nodes, (torch.int64,))
    lengths = verified_seq_len.tolist()
    row_bytes = 1 if nodes <= 8 else 2 if nodes <= 16 else 4
    if tree_mask_mode == FULL_MASK:
        _check_buffer("tree_mask", tree_mask, sum(n + nodes for n in lengths) * nodes, FLAGS)
    elif tree_mask_mode == QLEN_ONLY:
        _check_buffer("tree_mask", tree_mask, batch * nodes * nodes, FLAGS)
    elif tree_mask_mode == QLEN_ONLY_BITPACKING:
        if nodes > 32:
            raise ArgumentError(f"draft_token_num is {nodes}, expected at most 32 to pack the mask")
        size = tree_mask.element_size()
        words = (torch.uint8, WORDS[row_bytes])
        _check_buffer("tree_mask", tree_mask, batch * nodes * row_bytes // size, words)
    else:
        raise ArgumentError(f"tree_mask_mode is {tree_mask_mode}, expected 0, 1 or 2")

    flat, begin = tree_mask.view(-1), 0
    if tree_mask_mode == QLEN_ONLY_BITPACKING:
        flat = flat.view(torch.uint8)
    for b in range(batch):
        parents = _parents(parent_list[b].tolist(), selected_index[b].tolist(), topk)
        sees = torch.zeros((nodes, nodes), dtype=torch.bool)
        depths = [0] * nodes
        first, sibling = [-1] * nodes, [-1] * nodes
        for node in range(nodes):
            sees[node, node] = True
            if node:
                sees[node] |= sees[parents[node]]
                depths[node] = depths[parents[node]] + 1
        for node in range(nodes - 1, 0, -1):
            sibling[node], first[parents[node]] = first[parents[node]], node
        retrive_index[b] = torch.arange(b * nodes, (b + 1) * nodes)
        retrive_next_token[b] = torch.tensor(first)
        retrive_next_sibling[b] = torch.tensor(sibling)
        positions.view(-1)[b * nodes : (b + 1) * nodes] = torch.tensor(depths) + lengths[b]
        if tree_mask_mode == FULL_MASK:
            size = nodes * (lengths[b] + nodes)
            flat[begin : begin + size].view(nodes, -1)[:, lengths[b] :] = sees.to(flat.device)
            begin += size
        elif tree_mask_mode == QLEN_ONLY:
            flat[b * nodes * nodes : (b + 1) * nodes * nodes] = sees.flatten().to(flat.device)
        else:
            padded = torch.zeros((nodes, row_bytes * 8), dtype=torch.int64)
            padded[:, :nodes] = sees
            packed = (padded.view(-1, 8) << torch.arange(8)).sum(1).to(torch.uint8)
            flat[b * nodes * row_bytes : (b + 1) * nodes * row_bytes] = packed.to(flat.device)


def _check_buffer(name: str, tensor: Tensor, count: int, dtypes: Sequence[torch.dtype]) -> None:
    """Refuses what holds fewer than ``count`` elements, has another dtype, or does not lie in one piece."""
    if tensor.dtype not in dtypes:
        raise ShapeError(f"{name} is {tensor.dtype}, expected {' or '.join(map(str, dict.fromkeys(dtypes)))}")
    if tensor.numel() < count or not tensor.is_contiguous():
        have = "strides" if tensor.numel() >= count else f"{tensor.numel()} elements"
        raise ShapeError(f"{name} has {have}, expected a contiguous one of at least {count} elements")


def _check_links(shape: tuple[int, ...], index: Tensor, next_token: Tensor, next_sibling: Tensor) -> None:
    check("retrive_index", index, shape, torch.int64)
    check("retrive_next_token", next_token, shape, torch.int64)
    check("retrive_next_sibling", next_sibling, shape, torch.int64)


def _parents(parent_list: list[int], selected: list[int], topk: int) -> list[int]:
    """For each node the number of its parent's node; -1 for the root."""
    place = {candidate: node for node, candidate in enumerate(selected, 1)}
    parents = [-1]
    for node, candidate in enumerate(selected, 1):
        group, groups = candidate // topk, max(len(parent_list), 1)
        if not 0 <= group < groups:
            raise ArgumentError(f"selected_index holds {candidate}, expected 0 to {groups * topk - 1}")
        parent = 0 if group == 0 else place.get(parent_list[group], node)
        if parent >= node:
            raise ArgumentError(f"candidate {candidate} was selected without its parent, or before it")
        parents.append(parent)
    return parents


class _Tree:
    """One sequence's tree as lists."""

    def __init__(
        self, number: int, tokens: list[int], rows: list[int], first: list[int], sibling: list[int]
    ) -> None:
        self.number, self.tokens, self.rows = number, tokens, rows
        self.parents = [0] * len(tokens)
        self.children: list[list[int]] = []
        for node, child in enumerate(first):
            found: list[int] = []
            while child != -1:
                if not 0 < child < len(tokens) or len(found) >= len(tokens):
                    raise ArgumentError(
                        f"a link of node {node} leads to {child}, expected 1 to {len(tokens) - 1}, each once"
                    )
                found.append(child)
                self.parents[child] = node
                child = sibling[child]
            self.children.append(found)

    def walk(self, steps: int, choose: Callable[[int, list[int]], int | None]) -> list[int]:
        """Nodes from the root down as ``choose`` finds them, ``steps`` at most."""
        path = [0]
        while len(path) < steps:
            child = choose(path[-1], self.children[path[-1]])
            if child is None:
                break
            path.append(child)
        return path


def _trees(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
) -> list[_Tree]:
    check("candidates", candidates, (None, None), torch.int64)
    batch = candidates.shape[0]
    check("predicts", predicts, (None,), torch.int32)
    check("accept_index", accept_index, (batch, None), torch.int32)
    check("accept_token_num", accept_token_num, (batch,), torch.int32)
    tensors = (retrive_index, retrive_next_token, retrive_next_sibling)
    _check_links(candidates.shape, *tensors)
    links = [link.tolist() for link in tensors]
    for rows in links[0]:
        if rows and not (min(rows) >= 0 and max(rows) < predicts.shape[0]):
            raise ArgumentError(f"retrive_index holds {rows}, expected 0 to {predicts.shape[0] - 1}")
    trees = zip(candidates.tolist(), *links, strict=True)
    return [_Tree(number, *tree) for number, tree in enumerate(trees)]


def _write(
    predicts: Tensor, accept_index: Tensor, accept_token_num: Tensor, tree: _Tree, path: list[int], token: int
) -> None:
    b = tree.number
    accept_index[b, : len(path)] = torch.tensor([tree.rows[node] for node in path], dtype=torch.int32)
    accept_token_num[b] = len(path) - 1
    for node, child in pairwise(path):
        predicts[tree.rows[node]] = tree.tokens[child]
    predicts[tree.rows[path[-1]]] = token
