"""LM.generate(keep=...) with recipes that store pages in codes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import hornbeam as hb
from hornbeam.errors import ArgumentError
from hornbeam.keep import AfterPrefill, EveryTokens, MixedBits, Recipe
from tests.drafts import Foresight
from tests.lm.kept import DIM, HEADS, LAYERS, Spy, arrays, continued, ids
from tests.reference import pages as reference

RECIPES = {
    "zip_cache": lambda budget="100%": hb.recipes.zip_cache(budget),
    "kivi": lambda budget="100%": hb.recipes.kivi(budget),
    "int8": lambda budget="100%": hb.recipes.int8(budget),
}
FORMATS = {"zip_cache": {6, 7}, "kivi": {5}, "int8": {1}}


def often(recipe, count):
    return dataclasses.replace(recipe, when=EveryTokens(count))


def formats(entries):
    return entries[:, 1] >> 12


def decoded(tree, entries):
    """Keys and values `[N, D]` of one plane, codes by the reference's reading of their bytes."""
    keys, values = torch.empty(len(entries), DIM), torch.empty(len(entries), DIM)
    known = {}
    pages = tree.num_planes * tree.slabs_per_chunk
    for i, (page, slot, _) in enumerate(entries.tolist()):
        chunk = tree.chunks[page // pages]
        data = chunk.view(pages, *chunk.shape[2:])[page % pages]
        number, slot = slot >> 12, slot & 0xFFF
        if number == 0:
            keys[i], values[i] = data[0, slot].float(), data[1, slot].float()
            continue
        if page not in known:
            known[page] = reference.decode(data, number)
        keys[i] = torch.from_numpy(known[page].keys[slot])
        values[i] = torch.from_numpy(known[page].values[slot])
    return keys, values


class Watching(Spy):
    """As Spy; and what the pages held when the first token was shown, by plane."""

    def __init__(self, monkeypatch, lm):
        super().__init__(monkeypatch)
        self.lm, self.shown = lm, None
        self.sequence = None
        start = hb.engine.request.Request.__init__

        def remember(sequence, *arguments, **options):
            start(sequence, *arguments, **options)
            self.sequence = sequence

        monkeypatch.setattr(hb.engine.request.Request, "__init__", remember)

    def look(self, *_):
        if self.shown is None:
            table = self.lm.tree.key_table(self.sequence.branch)
            planes = table.split(table.entries)
            self.shown = [(plane, *decoded(self.lm.tree, plane)) for plane in planes]


class TestText:
    @pytest.mark.parametrize("name", RECIPES)
    def test_the_text_is_that_of_transformers_over_the_decoded_pages(self, model, lm, monkeypatch, name):
        watching, prompt = Watching(monkeypatch, lm), ids(150, seed=3)
        recipe = dataclasses.replace(RECIPES[name](), when=AfterPrefill())
        out = lm.generate(prompt, keep=recipe, max_new_tokens=12, draft=None, stream=watching.look)
        _, _, _, token = arrays(model, prompt)
        layers = [watching.shown[at : at + HEADS] for at in range(0, LAYERS * HEADS, HEADS)]
        keys = [torch.stack([keys for _, keys, _ in layer])[None] for layer in layers]
        values = [torch.stack([values for _, _, values in layer])[None] for layer in layers]
        assert out.token_ids == continued(model, keys, values, 150, token, 12)
        assert out.stats.reductions == 1
        assert out.stats.kept_share == 1.0

    def test_eight_bits_are_close_to_the_keys(self, model, lm, monkeypatch):
        watching, prompt = Watching(monkeypatch, lm), ids(100)
        lm.generate(prompt, keep=RECIPES["int8"](), max_new_tokens=2, draft=None, stream=watching.look)
        keys, values, _, _ = arrays(model, prompt)
        for plane, (entries, k, v) in enumerate(watching.shown):
            assert (formats(entries) == 1).sum() >= 84
            want_k, want_v = keys[plane // HEADS, 0, plane % HEADS], values[plane // HEADS, 0, plane % HEADS]
            assert (k - want_k).abs().max() <= want_k.abs().max() / 100
            assert (v - want_v).abs().max() <= want_v.abs().max() / 100

    @pytest.mark.parametrize("name", RECIPES)
    def test_a_batch_of_ragged_lengths_and_speculation_change_nothing(self, lm, name):
        recipe = often(RECIPES[name](), 9)
        prompts = [ids(n, seed=n) for n in (1, 60, 130, 37)]
        together = lm.generate(prompts, keep=recipe, max_new_tokens=40, draft=None)
        for prompt, out in zip(prompts, together, strict=True):
            alone = lm.generate(prompt, keep=recipe, max_new_tokens=40, draft=None)
            known = Foresight([prompt + alone.token_ids])
            fixed = hb.spec.Fixed(6)
            drafted = lm.generate(prompt, keep=recipe, max_new_tokens=40, draft=known, length=fixed)
            assert out.token_ids == alone.token_ids == drafted.token_ids
            assert drafted.stats.accepted > 10
        assert lm.tree.stats()["branches"] == 0


class TestPages:
    @pytest.mark.parametrize("name", RECIPES)
    def test_formats_mix_and_the_newest_are_exact(self, lm, spy, name):
        lm.generate(ids(160), keep=often(RECIPES[name](), 20), max_new_tokens=60, draft=None)
        for plane in spy.held[0]:
            assert plane[:, 2].tolist() == list(range(219))
            assert set(formats(plane)) == FORMATS[name] | {0}
            assert formats(plane)[-5:].tolist() == [0] * 5
            # Whole pages in codes, and what is left of each class.
            for number in FORMATS[name]:
                coded = plane[formats(plane) == number]
                tokens = dict(lm.tree.page_formats().values())[number]
                assert len(coded) % tokens == 0

    def test_the_low_share_is_that_of_all_tokens(self, lm, spy):
        recipe = often(Recipe(hb.keep.KeyNorm(), "100%", reduce=MixedBits(0.4)), 40)
        lm.generate(ids(300), keep=recipe, max_new_tokens=200, draft=None)
        for plane in spy.held[0]:
            counts = np.bincount(formats(plane), minlength=8)
            assert counts[7] <= 0.4 * 500
            assert counts[7] >= 0.4 * 460 - 40
            assert counts[6] >= 0.6 * 460 - 40

    @pytest.mark.parametrize("name", RECIPES)
    def test_history_is_encoded_once(self, lm, monkeypatch, name):
        """The bytes of a page in codes are at the end what they were when it was first seen."""
        watching, first = Watching(monkeypatch, lm), {}

        def look(*_):
            watching.shown = None
            if watching.sequence.is_closed:
                return
            watching.look()
            for plane, (entries, keys, values) in enumerate(watching.shown):
                for i in np.flatnonzero(formats(entries)):
                    at = (plane, int(entries[i, 2]))
                    now = (int(formats(entries)[i]), keys[i], values[i])
                    before = first.setdefault(at, now)
                    assert before[0] == now[0]
                    assert torch.equal(before[1], now[1])
                    assert torch.equal(before[2], now[2])

        recipe = often(RECIPES[name](), 10)
        lm.generate(ids(80), keep=recipe, max_new_tokens=80, draft=None, stream=look)
        assert len(first) > 100

    @pytest.mark.parametrize("name", RECIPES)
    def test_bytes_reported_are_bytes_allocated(self, lm, spy, name):
        prompts = [ids(n, seed=n) for n in (200, 90, 10)]
        outs = lm.generate(prompts, keep=often(RECIPES[name](), 8), max_new_tokens=30, draft=None)
        page_bytes = lm.tree.slab_bytes // lm.tree.num_planes
        for i in range(3):
            pages = [len({int(page) for page in plane[:, 0]}) for plane in spy.held[i]]
            assert spy.bytes[i].flatten().tolist() == [count * page_bytes for count in pages]
            assert spy.branch_stats[i]["bytes"] == sum(pages) * page_bytes
        assert outs[0].stats.kv_bytes < 0.6 * outs[0].stats.kv_bytes_before + 8 * 4 * page_bytes
        full = (200 + 29) * LAYERS * HEADS // 4 * page_bytes
        assert spy.branch_stats[0]["bytes"] < {"int8": 0.45, "kivi": 0.5, "zip_cache": 0.4}[name] * full
        stats = lm.tree.stats()
        assert stats["slabs"] - stats["free_slabs"] == stats["cached_slabs"]

    def test_a_shared_prefix_stays_exact_and_codes_are_never_matched(self, lm):
        head = ids(90, seed=7)
        prompts = [head + ids(30, seed=8), head + ids(20, seed=9)]
        exact = [lm.generate(prompt, max_new_tokens=12, draft=None).token_ids for prompt in prompts]
        lm.clear_cache()
        for recipe in (RECIPES["int8"](), RECIPES["kivi"](), RECIPES["zip_cache"]("60%")):
            alone = []
            for prompt in prompts:
                alone.append(lm.generate(prompt, keep=recipe, max_new_tokens=12, draft=None).token_ids)
                lm.clear_cache()
            lm.generate(head, max_new_tokens=1, draft=None)
            together = lm.generate(prompts, keep=recipe, max_new_tokens=12, draft=None)
            assert [out.token_ids for out in together] == alone
            again = lm.generate(prompts, max_new_tokens=12, draft=None)
            assert [out.token_ids for out in again] == exact
            lm.tree.debug_check()
            lm.clear_cache()

    def test_a_step_that_fails_leaves_every_byte(self, lm, monkeypatch):
        watching, calls, snapshots = Watching(monkeypatch, lm), [0], []
        forward, close = lm.runner.forward, hb.engine.request.Request.close

        def snapshot():
            watching.shown = None
            watching.look()
            [state] = watching.keepers[-1].states.values()
            return watching.shown, state.mass.clone(), state.since, lm.tree.stats()

        def failing(tree, step, **options):
            calls[0] += 1
            if calls[0] == 20:
                snapshots.append(snapshot())
                forward(tree, step, **options)
                raise RuntimeError("the model failed")
            return forward(tree, step, **options)

        def closing(sequence, keep=True):
            if not sequence.is_closed:
                snapshots.append(snapshot())
            close(sequence, keep)

        monkeypatch.setattr(lm.runner, "forward", failing)
        monkeypatch.setattr(hb.engine.request.Request, "close", closing)
        recipe, prompt = often(RECIPES["zip_cache"](), 6), ids(100)
        with pytest.raises(RuntimeError, match="the model failed"):
            lm.generate(prompt, keep=recipe, max_new_tokens=60, draft=None)
        before, after = snapshots
        for (a, k, v), (b, m, w) in zip(before[0], after[0], strict=True):
            assert np.array_equal(a, b)
            assert torch.equal(k, m)
            assert torch.equal(v, w)
            assert formats(a).any()
        assert torch.equal(before[1], after[1])
        assert before[2] == after[2]
        stats = [{k: v for k, v in s[3].items() if "slabs" not in k} for s in (before, after)]
        assert stats[0] == stats[1]
        assert lm.tree.stats()["branches"] == 0


class TestBudgets:
    @pytest.mark.parametrize("name", RECIPES)
    @pytest.mark.parametrize("budget", [0, 1, 40, "30%"])
    def test_tokens_and_ratios_count_keys(self, lm, spy, name, budget):
        out = lm.generate(ids(150), keep=often(RECIPES[name](budget), 5), max_new_tokens=40, draft=None)
        assert len(out.token_ids) == 40
        limit = budget if isinstance(budget, int) else int(0.3 * 189)
        # A split by layer or head may round a key from plane to plane.
        assert sum(len(plane) for plane in spy.held[0]) <= (limit + 5) * LAYERS * HEADS
        for plane in spy.positions():
            assert plane == sorted(set(plane))
            assert plane[-1] == 188

    @pytest.mark.parametrize("name", RECIPES)
    @pytest.mark.parametrize("pages", [0, 3, 20, 60])
    def test_bytes_count_pages(self, lm, spy, name, pages):
        page_bytes = lm.tree.slab_bytes // lm.tree.num_planes
        recipe = often(RECIPES[name](f"{pages * page_bytes}B"), 4)
        held = []
        keeper_reduce = hb.engine.eviction.keeper.Keeper._reduce

        def reduce(keeper, sequence, state):
            keeper_reduce(keeper, sequence, state)
            held.append(int(sequence.branch.bytes_by_head().sum()))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hb.engine.eviction.keeper.Keeper, "_reduce", reduce)
            lm.generate(ids(150), keep=recipe, max_new_tokens=60, draft=None)
        assert len(held) == 15
        assert max(held) <= pages * page_bytes
        assert pages < 60 or min(len(plane) for plane in spy.held[0]) >= 60

    def test_what_cannot_be_is_refused(self, model):
        lm = hb.LM(model, page_tokens=4)
        turned = dataclasses.replace(RECIPES["int8"](), rerotate=True)
        with pytest.raises(ArgumentError, match="cannot be turned"):
            lm.generate(ids(30), keep=turned)
        unknown = Recipe(hb.keep.KeyNorm(), "100%", reduce=MixedBits(low_bits=8))
        with pytest.raises(ArgumentError, match="zip_cache8, expected one that a page of 4 tokens"):
            lm.generate(ids(30), keep=unknown)
        lm.generate(ids(30), max_new_tokens=1, draft=None)
        branch = lm.tree.match(ids(30), max_tokens=29)
        with pytest.raises(ArgumentError, match="int3"):
            lm.tree.condense(branch, [range(29)] * 4, digest=1, formats=[["int3"] * 29] * 4)
