"""LM.generate(keep=...): shared prefixes stay exact, and the memory is given back."""

from __future__ import annotations

import pytest
import torch

import hornbeam as hb
from hornbeam.keep import EveryTokens, OnPressure
from tests import models
from tests.drafts import Foresight
from tests.lm.kept import RECIPES, ids, when


class TestSharing:
    @pytest.mark.parametrize("name", ["snap_kv", "ada_kv", "knorm", "h2o"])
    def test_a_shared_prefix_stays_exact_for_others(self, lm, name):
        recipe = RECIPES[name](12)
        head = ids(40, seed=7)
        prompts = [head + ids(30, seed=8), head + ids(20, seed=9)]
        exact = [lm.generate(prompt, max_new_tokens=12, draft=None).token_ids for prompt in prompts]
        lm.clear_cache()
        alone = []
        for prompt in prompts:
            alone.append(lm.generate(prompt, keep=recipe, max_new_tokens=12, draft=None).token_ids)
            lm.clear_cache()
        lm.generate(head, max_new_tokens=1, draft=None)
        together = lm.generate(prompts, keep=recipe, max_new_tokens=12, draft=None)
        assert [out.token_ids for out in together] == alone
        assert alone != exact
        lm.tree.debug_check()
        # Nothing lossy is ever matched, and what was exact is still there.
        again = lm.generate(prompts, max_new_tokens=12, draft=None)
        assert [out.token_ids for out in again] == exact
        assert all(out.stats.reused_tokens >= 40 for out in again)

    def test_prompts_of_one_call_share_before_they_are_reduced(self, lm):
        head = ids(60, seed=7)
        prompts = [head + ids(20, seed=8), head + ids(20, seed=9)]
        outs = lm.generate(prompts, keep=hb.recipes.snap_kv(10, window=8), max_new_tokens=4, draft=None)
        assert outs[1].stats.reused_tokens >= 60

    def test_the_old_version_goes_with_its_last_reader(self, lm):
        tree, prompt = lm.tree, ids(40)
        lm.generate(prompt, max_new_tokens=1, draft=None)
        a = tree.match(prompt, max_tokens=39)
        b = a.fork()
        before = tree.key_table(b).gather(tree.chunks)
        tree.condense(a, [torch.arange(h, 39, 3) for h in range(tree.num_planes)], digest=1)
        after = tree.key_table(b).gather(tree.chunks)
        assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
        tree.clear()
        held = tree.stats()["slabs"] - tree.stats()["free_slabs"]
        b.release(keep=False)
        tree.clear()
        left = tree.stats()["slabs"] - tree.stats()["free_slabs"]
        assert left < held
        assert left * tree.slab_bytes >= a.stats()["bytes"]
        tree.debug_check()
        a.release(keep=False)
        assert tree.stats()["slabs"] == tree.stats()["free_slabs"]


class TestMemory:
    @pytest.mark.parametrize("name", ["snap_kv", "ada_kv", "sparse_mm"])
    def test_bytes_reported_are_bytes_allocated(self, lm, spy, name):
        lm.generate(ids(200), keep=RECIPES[name]("20%"), max_new_tokens=2, draft=None)
        page_bytes = lm.tree.slab_bytes // lm.tree.num_planes
        pages = [len({int(page) for page in plane[:, 0]}) for plane in spy.held[0]]
        assert spy.bytes[0].flatten().tolist() == [count * page_bytes for count in pages]
        assert spy.branch_stats[0]["bytes"] == sum(pages) * page_bytes

    def test_the_pool_shrinks_to_what_is_kept(self, model):
        lm = hb.LM(model, page_tokens=4)
        lm.tree = hb.PrefixTree(num_layers=2, num_kv_heads=2, head_dim=32, page_tokens=4, slabs_per_chunk=1)
        seen = []
        lm.generate(
            ids(400),
            keep=hb.recipes.ada_kv("10%", window=8),
            max_new_tokens=3,
            draft=None,
            stream=lambda *_: seen.append((lm.tree.trim(), lm.tree.num_bytes)),
        )
        full = 100 * lm.tree.slab_bytes
        assert seen[0][1] == full or seen[0][1] <= 0.2 * full
        # 10 % of the keys, a partly empty page a plane, and a slab for the next tokens.
        assert seen[1][1] <= (0.1 + 0.02) * full + lm.tree.slab_bytes
        assert lm.freed_bytes > 0.85 * full

    def test_generation_says_what_was_freed(self, lm):
        stats = lm.generate(ids(200), keep=RECIPES["snap_kv"]("25%"), max_new_tokens=3, draft=None).stats
        assert stats.reductions == 1
        assert stats.kv_bytes_before == 50 * lm.tree.slab_bytes
        assert 0.25 * stats.kv_bytes_before <= stats.kv_bytes <= 0.29 * stats.kv_bytes_before
        assert stats.kept_share == pytest.approx(0.25)
        assert lm.freed_bytes == stats.kv_bytes_before - stats.kv_bytes

    @pytest.mark.parametrize("name", ["streaming_llm", "snap_kv", "int8"])
    def test_twenty_thousand_tokens_stay_inside_a_byte_budget(self, name):
        """A model that counts, so that drafts are known; its keys and queries are those of its tokens."""
        model, prompt, count = models.llama(layers=1), [i % models.VOCABULARY for i in range(100)], 20_000
        model.config.max_position_embeddings = 32_768
        with torch.no_grad():
            model.model.layers[0].self_attn.o_proj.weight.zero_()
            model.model.layers[0].mlp.down_proj.weight.zero_()
            model.lm_head.weight.copy_(model.model.embed_tokens.weight.roll(1, 0))
        text = [i % models.VOCABULARY for i in range(100, 100 + count)]
        budget = 24 * 16 * 2 * 2 * 32 * 4
        lm = hb.LM(model, max_kv_bytes=budget)
        recipe = when(getattr(hb.recipes, name)(f"{budget // 2}B"), EveryTokens(16))
        looks = []

        def look(*_):
            assert lm.tree.num_bytes <= budget
            looks.append(lm.tree.num_bytes)

        out = lm.generate(
            prompt,
            keep=recipe,
            max_new_tokens=count,
            draft=Foresight([prompt + text], wrong=60),
            length=hb.spec.Fixed(15),
            stream=look,
        )
        assert out.token_ids == text
        assert len(looks) > count // 32
        assert max(looks) > 0
        assert lm.tree.peak_bytes <= budget
        assert out.stats.kv_bytes <= budget // 2

    def test_pressure_reduces_before_the_pool_is_full(self, model):
        budget = 16 * 16 * 4 * 2 * 32 * 4
        lm = hb.LM(model, max_kv_bytes=budget)
        recipe = when(hb.recipes.knorm(40), OnPressure(0.5))
        out = lm.generate(ids(50), keep=recipe, max_new_tokens=400, draft=None)
        assert len(out.token_ids) == 400
        assert out.stats.reductions > 3
