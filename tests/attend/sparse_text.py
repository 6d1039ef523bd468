"""What transformers writes where each row of decoding reads some pages only: the oracle of whole texts.

Pages are chosen as the papers have it, by plain torch over the keys before the row; the row's own key is
always seen. Prompts are read in full.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor

from hornbeam.attend import Always, Bounds, Recipe, TopK, TopP
from tests import models

NAME = "sparse_reference"


def page_scores(query: Tensor, keys: Tensor, page: int, recipe: Recipe) -> Tensor:
    """Scores ``[H, pages]`` of the pages of ``keys [Hk, n, D]`` for one row's queries ``[H, D]``."""
    group = len(query) // len(keys)
    found = []
    for head, own in enumerate(query):
        rows = keys[head // group]
        starts = range(0, len(rows), page)
        found.append(torch.tensor([part_score(own, rows[at : at + page], recipe) for at in starts]))
    return torch.stack(found)


def part_score(query: Tensor, keys: Tensor, recipe: Recipe) -> float:
    """What is known of the score of ``keys [n, D]``."""
    if isinstance(recipe.estimate, Bounds):
        greatest, least, slack = keys.amax(0), keys.amin(0), recipe.estimate.slack
        if slack == 1:
            return float(torch.maximum(query * greatest, query * least).sum())
        return float((query * (greatest + least) + slack * query.abs() * (greatest - least)).sum()) / 2
    return float(query @ keys.mean(0))


def grouped(scores: Tensor, kv_heads: int, recipe: Recipe) -> Tensor:
    """The scores by which each query head chooses, ``[H, pages]``."""
    heads, pages = scores.shape
    if recipe.group == "layer":
        return scores.sum(0, keepdim=True).expand(heads, pages)
    if recipe.group == "max":
        parts = scores.view(kv_heads, heads // kv_heads, pages).amax(1, keepdim=True)
        return parts.expand(kv_heads, heads // kv_heads, pages).reshape(heads, pages)
    return scores


def chosen(scores: Tensor, num_tokens: int, page: int, recipe: Recipe, scale: float) -> Tensor:
    """Which pages each query head reads, bool ``[H, pages]``, of ``num_tokens`` keys before the row."""
    heads, pages = scores.shape
    select = recipe.select
    always = torch.zeros(pages, dtype=torch.bool)
    always[-1] = True
    always[: -(-select.sinks // page)] = True
    if select.window:
        always[max(num_tokens - select.window + 1, 0) // page :] = True
    found = always.expand(heads, pages).clone()
    if isinstance(select, Always):
        return found
    for head in range(heads):
        order = sorted(range(pages), key=lambda at: (-bool(always[at]), -float(scores[head, at]), at))
        if isinstance(select, TopK):
            numbers = select.numbers
            count = numbers["k"] if "k" in numbers else -int(-(numbers["share"] * pages) // 1)
        else:
            assert isinstance(select, TopP)
            sizes = torch.full((pages,), float(page))
            # Of the last page nothing is estimated.
            sizes[-1] = 0.0
            mass = torch.softmax(scale * scores[head].double() + sizes.double().log(), 0)
            sums = torch.cumsum(mass[order], 0)
            count = int((sums < select.p).sum()) + 1
            count = max(count, select.floor)
            count = count if select.cap is None else min(count, select.cap)
        found[head, order[:count]] = True
    return found


@contextmanager
def reading(model: Any, recipe: Recipe, page: int, log: list[Tensor] | None = None) -> Iterator[None]:
    """While it lasts, a model decodes by this recipe; ``log`` takes what each row and layer read."""

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
        scale, group = options["scaling"], query.shape[1] // key.shape[1]
        keys, values = (x[0].repeat_interleave(group, 0) for x in (key, value))
        scores = scale * query[0] @ keys.mT
        rows, total = scores.shape[1:]
        seen = torch.ones(rows, total, dtype=torch.bool).tril(total - rows).expand(scores.shape)
        if rows == 1 and total > 1 and module.layer_idx >= recipe.dense_layers:
            found = page_scores(query[0, :, 0], key[0, :, :-1], page, recipe)
            found = grouped(found, key.shape[1], recipe)
            pages = chosen(found, total - 1, page, recipe, scale)
            own = torch.ones(len(pages), 1, dtype=torch.bool)
            seen = torch.cat([pages.repeat_interleave(page, 1)[:, : total - 1], own], 1)[:, None]
            if log is not None:
                log.append(pages)
        weights = torch.softmax(scores.masked_fill(~seen, float("-inf")), -1)
        return (weights @ values).transpose(0, 1)[None].contiguous(), None

    transformers.AttentionInterface.register(NAME, attend)
    transformers.AttentionMaskInterface.register(NAME, lambda *_, **__: None)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def sparse_greedy(model: Any, prompt: list[int], count: int, recipe: Recipe, page: int) -> list[int]:
    """Greedy text of ``count`` tokens."""
    with reading(model, recipe, page):
        return models.greedy(model, torch.tensor([prompt]), count)
