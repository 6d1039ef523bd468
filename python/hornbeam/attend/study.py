"""What a recipe reads, on arrays alone: :func:`plan` runs the rules of generation on queries and keys."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from hornbeam import _native, ops
from hornbeam.attend.prefill.base import PrefillRecipe
from hornbeam.attend.recipe import NAMED_PREFILLS, NAMED_RECIPES, Recipe
from hornbeam.attend.selected import Selected
from hornbeam.cache.tree import PrefixTree
from hornbeam.errors import ArgumentError, ShapeError
from hornbeam.integers import whole_number

__all__ = ["checked", "method_of", "plan", "scale_of"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def plan(
    recipe: Any,
    q: Tensor,
    k: Tensor,
    *,
    layer: int | None = None,
    scale: float | None = None,
    page_tokens: int = 16,
) -> Selected:
    """What a recipe reads: the very rules of generation, on queries and keys of one layer.

    A recipe of pages (``attend=``) chooses as in decoding one token after the other: a row's keys are in
    pages that were filled before it, its own key is read anyway. A recipe of blocks (``prefill=``) chooses
    as for one chunk of a prompt, whatever dense attention would cost.

    Args:
        recipe: such as ``hb.recipes.quest(pages=64)`` or ``hb.recipes.flex_prefill()``, or a recipe's name.
        q: queries `[H, N, D]`, rotated; the last N of the M positions. float32, bfloat16 or float16.
        k: keys `[Hk, M, D]`, rotated, of the same dtype or another of the three; `H` is a multiple of `Hk`.
        layer: which layer they are of: a recipe may read the first ones densely, or have patterns of its own
            for each. Where not given, one that is read sparsely.
        scale: what attention multiplies scores by; `D ** -0.5` where not given.
        page_tokens: keys of a page, for recipes of pages.

    Raises:
        ShapeError: ``q`` or ``k`` has not three sizes, their sizes disagree, or there are fewer keys than
            queries.
        ArgumentError: a value out of range, or what is given is no recipe.
    """
    checked(q, k)
    whole_number(page_tokens, "page_tokens", 1)
    if layer is not None:
        whole_number(layer, "layer", 0)
    q, k, factor = q.detach().cpu(), k.detach().cpu(), scale_of(q, scale)
    found = method_of(recipe)
    if isinstance(found, Recipe):
        is_dense = layer is not None and layer < found.dense_layers
        return _all_pages(q, k, page_tokens) if is_dense else _pages(found, q, k, factor, page_tokens)
    return _blocks(found, q, k, factor, layer or 0)


def method_of(given: Any) -> Recipe | PrefillRecipe:
    """A recipe of either kind, of pages or of blocks; the one of a name with its defaults.

    Args:
        given: the recipe, or its name.

    Raises:
        ArgumentError: it is neither.
    """
    if isinstance(given, (Recipe, PrefillRecipe)):
        return given
    importlib.import_module("hornbeam.recipes")
    named = NAMED_RECIPES | NAMED_PREFILLS
    if isinstance(given, str) and given in named:
        return named[given]()
    raise ArgumentError(
        f"recipe is {given!r}, expected one such as hb.recipes.quest(pages=64) or hb.recipes.flex_prefill(), "
        f"or a name: {', '.join(sorted(named))}"
    )


def checked(q: Tensor, k: Tensor) -> None:
    """Refuses queries and keys that are not of one layer.

    Args:
        q: `[H, N, D]`.
        k: `[Hk, M, D]`.

    Raises:
        ShapeError, ArgumentError: as :func:`plan`.
    """
    for name, tensor, sizes in (("q", q, "[H, N, D]"), ("k", k, "[Hk, M, D]")):
        if tensor.dim() != 3:
            raise ShapeError(f"{name}.shape is {list(tensor.shape)}, expected three sizes, {sizes}")
        if tensor.dtype not in _DTYPES:
            raise ArgumentError(f"{name}.dtype is {tensor.dtype}, expected float32, bfloat16 or float16")
    if q.shape[2] != k.shape[2] or not q.shape[2]:
        raise ShapeError(
            f"q has {q.shape[2]} elements a head and k {k.shape[2]}, expected equally many, not 0"
        )
    if not k.shape[0] or not q.shape[0] or q.shape[0] % k.shape[0]:
        raise ShapeError(f"q has {q.shape[0]} heads, expected a multiple of the {k.shape[0]} heads of k")
    if not 1 <= q.shape[1] <= k.shape[1]:
        raise ShapeError(f"q has {q.shape[1]} rows, expected 1 to the {k.shape[1]} of k")


def scale_of(q: Tensor, scale: float | None) -> float:
    """What scores are multiplied by: ``scale``, or `D ** -0.5` of queries ``q [H, N, D]`` without one."""
    return float(q.shape[2] ** -0.5 if scale is None else scale)


def _pages(recipe: Recipe, q: Tensor, k: Tensor, scale: float, page_tokens: int) -> Selected:
    """Decodes the rows one by one over pages of their own; what is chosen is what generation chooses."""
    heads, num_rows, dim = q.shape
    kv_heads, num_keys, _ = k.shape
    tree = PrefixTree(
        num_layers=1,
        num_kv_heads=kv_heads,
        head_dim=dim,
        dtype=k.dtype,
        page_tokens=page_tokens,
        slabs_per_chunk=-(-num_keys // page_tokens) + 1,
    )
    branch = tree.branch()
    keys, queries = k.transpose(0, 1).contiguous(), q.transpose(0, 1).contiguous()
    units = torch.zeros(heads, num_rows, -(-num_keys // page_tokens), dtype=torch.bool, device="cpu")
    group = heads // kv_heads
    first = num_keys - num_rows
    # Before the rows lies one prefix; its pages are those of a prompt.
    for begin, end in [*([(0, first)] if first else []), *((at, at + 1) for at in range(first, num_keys))]:
        # As in generation, keys of decoding are no part of the prompt's node, also on a page of both.
        with tree.step([(branch, [0] * (end - begin), None)], exact=end == first) as step:
            own = keys[begin:end]
            ops.write_rows(own, own, tree.chunks, step.plan, layer=0, num_kv_heads=kv_heads)
            if end > first:
                row = begin - first
                chosen = _native.select_pages(
                    tree._native,
                    queries[row : row + 1],
                    tree.chunks,
                    step.plan,
                    0,
                    kv_heads,
                    scale,
                    [(0, 1, recipe.rule)],
                )
                # An entry is a run of keys on one page; its third word is the position of the first.
                page_of = step.plan.entries[:, 2] // page_tokens
                for head in range(heads):
                    is_read = chosen.mask(head // group, head % group)[0]
                    units[head, row, torch.from_numpy(page_of[is_read])] = True
                units[:, row, begin // page_tokens] = True
            step.commit([range(end - begin)])
    return Selected(units, num_rows, num_keys, 1, page_tokens, (recipe.name,) * heads)


def _all_pages(q: Tensor, k: Tensor, page_tokens: int) -> Selected:
    """Of a layer that is read densely."""
    shape = (q.shape[0], q.shape[1], -(-k.shape[1] // page_tokens))
    units = torch.ones(shape, dtype=torch.bool, device="cpu")
    return Selected(units, q.shape[1], k.shape[1], 1, page_tokens, ("dense",) * q.shape[0])


def _blocks(recipe: PrefillRecipe, q: Tensor, k: Tensor, scale: float, layer: int) -> Selected:
    """Chooses as for one chunk of a prompt."""
    found = recipe.plan(layer, q, k, scale)
    blocks, patterns = found.blocks, found.patterns
    if k.shape[1] <= recipe.dense_keys:
        blocks, patterns = torch.ones_like(blocks), ("dense",) * len(patterns)
    return Selected(blocks, q.shape[1], k.shape[1], found.grid.block_rows, found.grid.block_keys, patterns)
