"""What tests of LM.generate(keep=...) share: recipes, a spy on keepers, and transformers' own pass."""

from __future__ import annotations

import torch
import transformers

import hornbeam as hb
from hornbeam.engine.eviction import Keeper
from hornbeam.engine.request import Request
from tests import models

LAYERS, HEADS, GROUP, DIM = 2, 2, 3, 32
SCORES = tuple(tuple(1.0 + layer + 2 * head for head in range(HEADS)) for layer in range(LAYERS))
EXPECTED = hb.keep.ValueWeighted(hb.keep.ExpectedAttention(64), "l2")
# Every recipe that drops or merges, with windows short enough for short prompts.
RECIPES = {
    "streaming_llm": lambda budget: hb.recipes.streaming_llm(budget),
    "h2o": lambda budget: hb.recipes.h2o(budget),
    "tova": lambda budget: hb.recipes.tova(budget),
    "snap_kv": lambda budget: hb.recipes.snap_kv(budget, window=8),
    "pyramid_kv": lambda budget: hb.recipes.pyramid_kv(budget, window=8),
    "ada_kv": lambda budget: hb.recipes.ada_kv(budget, window=8),
    "expected_attention": lambda budget: hb.recipes.expected_attention(budget),
    "expected, weighted twice": lambda budget: hb.keep.Recipe(EXPECTED, budget),
    "key_diff": lambda budget: hb.recipes.key_diff(budget),
    "knorm": lambda budget: hb.recipes.knorm(budget),
    "prefix_kv": lambda budget: hb.recipes.prefix_kv(budget),
    "ems": lambda budget: hb.recipes.ems(budget, window=8),
    "window_kv": lambda budget: hb.recipes.window_kv(budget),
    "sparse_mm": lambda budget: hb.recipes.sparse_mm(budget, head_scores=SCORES, window=8),
}
SPECULATED = [
    "streaming_llm",
    "h2o",
    "tova",
    "snap_kv",
    "ada_kv",
    "expected_attention",
    "prefix_kv",
    "window_kv",
]


def when(recipe, moment):
    import dataclasses

    return dataclasses.replace(recipe, when=moment)


def ids(length, seed=0):
    return models.prompt(length, seed)[0].tolist()


class Spy:
    """Keeps what a run knew at its end: the keeper, and each sequence's keys when it closed."""

    def __init__(self, monkeypatch):
        self.keepers, self.held, self.bytes, self.branch_stats = [], {}, {}, {}
        start, close = Keeper.__init__, Request.close

        def started(keeper, *arguments):
            start(keeper, *arguments)
            self.keepers.append(keeper)

        def closed(sequence, keep=True):
            if not sequence.is_closed:
                tree = sequence.engine.tree
                table = tree.key_table(sequence.branch)
                self.held[sequence.index] = table.split(table.entries)
                self.bytes[sequence.index] = sequence.branch.bytes_by_head()
                self.branch_stats[sequence.index] = sequence.branch.stats()
                tree.debug_check()
            close(sequence, keep)

        monkeypatch.setattr(Keeper, "__init__", started)
        monkeypatch.setattr(Request, "close", closed)

    def positions(self, sequence=0):
        return [plane[:, 2].tolist() for plane in self.held[sequence]]


def arrays(model, prompt):
    """Keys, values `[L, 1, Hk, N, D]` and rotated queries `[L, 1, H, N, D]` by transformers' own pass."""
    queries = []

    def attend(module, query, key, value, mask, **options):
        queries.append(query)
        return transformers.integrations.sdpa_attention.sdpa_attention_forward(
            module, query, key, value, mask, **options
        )

    transformers.AttentionInterface.register("test_keep_record", attend)
    cache, before = transformers.DynamicCache(), model.config._attn_implementation
    model.set_attn_implementation("test_keep_record")
    try:
        with torch.inference_mode():
            logits = model(torch.tensor([prompt]), past_key_values=cache, use_cache=True).logits
    finally:
        model.set_attn_implementation(before)
    keys = torch.stack([layer.keys for layer in cache.layers])
    values = torch.stack([layer.values for layer in cache.layers])
    return keys, values, torch.stack(queries), int(logits[0, -1].argmax())


def continued(model, keys, values, length, token, count):
    """Greedy text over a cache `[L][1, Hk, K, D]` that stands for `length` tokens."""
    cache = transformers.DynamicCache()
    for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
        cache.update(k, v, layer)
    out = [token]
    with torch.inference_mode():
        while len(out) < count:
            position = torch.tensor([[length + len(out) - 1]])
            step = model(
                torch.tensor([out[-1:]]), past_key_values=cache, position_ids=position, use_cache=True
            )
            out.append(int(step.logits[0, -1].argmax()))
    return out
