"""LM.generate(keep=...): what is kept, that nothing else changes, and that the memory is given back."""

from __future__ import annotations

import pytest
import torch
import transformers

import hornbeam as hb
from hornbeam.engine import engine as engine_module
from hornbeam.engine.eviction import Keeper
from hornbeam.errors import ArgumentError
from hornbeam.keep import AfterPrefill, EveryTokens, OnPressure, Recipe, SimilarityMerge, ValueMerge
from tests import models
from tests.drafts import Foresight

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


@pytest.fixture(scope="module")
def model():
    return models.llama()


@pytest.fixture
def lm(model):
    return hb.LM(model, page_tokens=4)


def ids(length, seed=0):
    return models.prompt(length, seed)[0].tolist()


class Spy:
    """Keeps what a run knew at its end: the keeper, and each sequence's keys when it closed."""

    def __init__(self, monkeypatch):
        self.keepers, self.held, self.bytes, self.branch_stats = [], {}, {}, {}
        start, close = Keeper.__init__, hb.engine.request.Request.close

        def started(keeper, *arguments):
            start(keeper, *arguments)
            self.keepers.append(keeper)

        def closed(sequence):
            if not sequence.is_closed:
                tree = sequence.engine.tree
                table = tree.key_table(sequence.branch)
                self.held[sequence.index] = table.split(table.entries)
                self.bytes[sequence.index] = sequence.branch.bytes_by_head()
                self.branch_stats[sequence.index] = sequence.branch.stats()
                tree.debug_check()
            close(sequence)

        monkeypatch.setattr(Keeper, "__init__", started)
        monkeypatch.setattr(hb.engine.request.Request, "close", closed)

    def positions(self, sequence=0):
        return [plane[:, 2].tolist() for plane in self.held[sequence]]


@pytest.fixture
def spy(monkeypatch):
    return Spy(monkeypatch)


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


class TestWhatIsKept:
    @pytest.mark.parametrize("name", RECIPES)
    @pytest.mark.parametrize("budget", ["40%"])
    def test_the_kept_set_is_that_of_the_plan(self, model, lm, spy, name, budget):
        recipe = when(RECIPES[name](budget), AfterPrefill())
        prompt = ids(70)
        out = lm.generate(prompt, keep=recipe, max_new_tokens=2, draft=None)
        keys, values, queries, _ = arrays(model, prompt)
        frequencies = hb.keep.rotate.inverse_frequencies(model)
        if name == "expected_attention":
            recipe = hb.recipes.expected_attention(budget, inverse_frequencies=frequencies)
        if name == "expected, weighted twice":
            score = hb.keep.ExpectedAttention(64, inverse_frequencies=frequencies)
            recipe = hb.keep.Recipe(hb.keep.ValueWeighted(score, "l2"), budget)
        kept = hb.keep.plan(recipe, keys, values, queries)
        want = [kept[layer][0][head].tolist() for layer in range(LAYERS) for head in range(HEADS)]
        # The second token's own key came after the reduction.
        assert [plane[:-1] for plane in spy.positions()] == want
        assert all(plane[-1] == 70 for plane in spy.positions())
        assert out.stats.reductions == 1

    @pytest.mark.parametrize("name", ["streaming_llm", "snap_kv", "tova", "knorm", "h2o", "ems"])
    @pytest.mark.parametrize("pieces", [8192, 32])
    def test_the_text_is_that_of_transformers_over_the_kept_keys(self, model, name, pieces):
        lm = hb.LM(model, page_tokens=4, prefill_rows=pieces)
        lm.dense_rows = 16
        recipe, prompt = when(RECIPES[name](20), AfterPrefill()), ids(120, seed=3)
        keys, values, queries, token = arrays(model, prompt)
        planes = hb.keep.reduce(recipe, keys, values, queries)

        def stack(field):
            return [torch.stack([getattr(plane, field) for plane in layer[0]])[None] for layer in planes]

        want = continued(model, stack("keys"), stack("values"), len(prompt), token, 16)
        out = lm.generate(prompt, keep=recipe, max_new_tokens=16, draft=None)
        assert out.token_ids == want
        assert out.token_ids != lm.generate(prompt, max_new_tokens=16, draft=None).token_ids

    @pytest.mark.parametrize("reduce", [ValueMerge(), SimilarityMerge()])
    def test_merged_keys_and_values_are_what_later_tokens_read(self, model, lm, reduce):
        recipe = Recipe(hb.keep.KeyNorm(), 20, reduce=reduce)
        prompt = ids(80, seed=5)
        keys, values, queries, token = arrays(model, prompt)
        planes = hb.keep.reduce(recipe, keys, values, queries)
        k = [torch.stack([plane.keys for plane in layer[0]])[None] for layer in planes]
        v = [torch.stack([plane.values for plane in layer[0]])[None] for layer in planes]
        out = lm.generate(prompt, keep=recipe, max_new_tokens=12, draft=None)
        assert out.token_ids == continued(model, k, v, 80, token, 12)

    @pytest.mark.parametrize("name", RECIPES)
    def test_keeping_everything_changes_nothing(self, lm, name):
        prompt = ids(50, seed=1)
        want = lm.generate(prompt, max_new_tokens=8, draft=None).token_ids
        for budget in ("100%", 10_000, "64MB"):
            out = lm.generate(prompt, keep=RECIPES[name](budget), max_new_tokens=8, draft=None)
            assert out.token_ids == want
            assert out.stats.reductions == 0
            assert out.stats.kept_share == 1.0

    @pytest.mark.parametrize("name", RECIPES)
    @pytest.mark.parametrize("budget", [0, 1, "1B"])
    def test_tiny_budgets(self, lm, spy, name, budget):
        recipe = RECIPES[name](budget)
        out = lm.generate(ids(30), keep=recipe, max_new_tokens=6, draft=None)
        assert len(out.token_ids) == 6
        most = 1 if budget == 1 else 0
        own = min(getattr(recipe.when, "count", 5), 5)
        assert max(len(plane) for plane in spy.held[0]) <= most + own
        assert lm.generate([7], keep=recipe, max_new_tokens=3, draft=None).token_ids

    def test_constant_keys_and_a_single_head(self):
        lm = hb.LM(models.qwen3())
        for name, make in RECIPES.items():
            if name == "sparse_mm":
                continue
            out = lm.generate([5] * 40, keep=make("30%"), max_new_tokens=5, draft=None)
            assert len(out.token_ids) == 5, name

    def test_layers_with_a_window_are_refused_where_queries_are_read(self):
        lm = hb.LM(models.mistral())
        with pytest.raises(ArgumentError, match="sliding_window"):
            lm.generate(ids(30), keep=hb.recipes.expected_attention(8), max_new_tokens=2)
        assert lm.tree.stats()["branches"] == 0
        assert lm.generate(ids(30), keep=hb.recipes.knorm(8), max_new_tokens=2).token_ids


class TestEveryToken:
    """Reductions in the course of decoding."""

    @pytest.mark.parametrize("name", RECIPES)
    @pytest.mark.parametrize("count", [1, 7])
    def test_no_plane_is_above_its_budget(self, lm, spy, name, count):
        recipe = when(RECIPES[name](16), EveryTokens(count))
        out = lm.generate(ids(40), keep=recipe, max_new_tokens=30, draft=None)
        assert out.stats.reductions >= 29 // count
        keys = sum(len(plane) for plane in spy.held[0])
        assert keys <= (16 + count) * LAYERS * HEADS
        for plane in spy.positions():
            assert plane == sorted(set(plane))
            assert plane[-1] == 68
        assert spy.branch_stats[0]["nodes"] <= 2

    def test_h2o_is_what_it_says_token_by_token(self, model, lm, spy):
        """Against a plain loop: every row's probabilities over what was there add up; half of the budget is
        for the newest; ties do not occur."""
        prompt, budget, count = ids(20, seed=2), 12, 14
        lm.generate(prompt, keep=hb.recipes.h2o(budget, every=1), max_new_tokens=count, draft=None)
        keys, values, queries, token = arrays(model, prompt)
        q = queries[:, 0].view(LAYERS, HEADS, GROUP, 20, DIM).double()
        k = keys[:, 0].double()
        scores = torch.einsum("lhgqd,lhkd->lhgqk", q, k) * DIM**-0.5
        scores = scores.masked_fill(torch.ones(20, 20).triu(1).bool(), -torch.inf)
        mass = scores.softmax(-1).sum(3).mean(2)
        positions = [[list(range(20)) for _ in range(HEADS)] for _ in range(LAYERS)]
        cache_k, cache_v = list(keys.unbind()), list(values.unbind())

        def evict():
            nonlocal mass
            fresh = torch.empty(LAYERS, HEADS, budget, dtype=torch.float64)
            for layer in range(LAYERS):
                picked = []
                for head in range(HEADS):
                    here = positions[layer][head]
                    recent = budget // 2
                    old = mass[layer, head, : len(here) - recent]
                    best = old.topk(budget - recent).indices.tolist()
                    chosen = sorted(best) + list(range(len(here) - recent, len(here)))
                    positions[layer][head] = [here[i] for i in chosen]
                    fresh[layer, head] = mass[layer, head, chosen]
                    picked.append(chosen)
                index = torch.tensor(picked)[None, :, :, None].expand(1, HEADS, budget, DIM)
                cache_k[layer] = cache_k[layer].gather(2, index)
                cache_v[layer] = cache_v[layer].gather(2, index)
            mass = fresh

        evict()
        record, at = [], len(prompt)

        def attend(module, query, key, value, mask, **options):
            record.append((query, key))
            return transformers.integrations.sdpa_attention.sdpa_attention_forward(
                module, query, key, value, mask, **options
            )

        transformers.AttentionInterface.register("test_keep_record", attend)
        before = model.config._attn_implementation
        model.set_attn_implementation("test_keep_record")
        try:
            for _ in range(count - 1):
                record.clear()
                cache = transformers.DynamicCache()
                for layer in range(LAYERS):
                    cache.update(cache_k[layer], cache_v[layer], layer)
                with torch.inference_mode():
                    step = model(
                        torch.tensor([[token]]),
                        past_key_values=cache,
                        position_ids=torch.tensor([[at]]),
                        use_cache=True,
                    )
                token, at = int(step.logits[0, -1].argmax()), at + 1
                grown = torch.zeros(LAYERS, HEADS, budget + 1, dtype=torch.float64)
                grown[..., :budget] = mass
                for layer, (query, key) in enumerate(record):
                    cache_k[layer], cache_v[layer] = cache.layers[layer].keys, cache.layers[layer].values
                    q = query[0, :, 0].view(HEADS, GROUP, DIM).double()
                    p = (torch.einsum("hgd,hkd->hgk", q, key[0].double()) * DIM**-0.5).softmax(-1)
                    grown[layer] += p.mean(1)
                mass = grown
                for layer in positions:
                    for head in layer:
                        head.append(at - 1)
                if _ < count - 2:
                    evict()
        finally:
            model.set_attn_implementation(before)
        assert spy.positions() == [head for layer in positions for head in layer]

    @pytest.mark.parametrize("name", SPECULATED)
    def test_speculation_changes_nothing(self, lm, spy, name):
        recipe = when(RECIPES[name](24), EveryTokens(9))
        prompt = ids(60, seed=4)
        plain = lm.generate(prompt, keep=recipe, max_new_tokens=40, draft=None)
        held = spy.held[0]
        mass = spy.keepers[-1]
        known = Foresight([prompt + plain.token_ids])
        drafted = lm.generate(prompt, keep=recipe, max_new_tokens=40, draft=known, length=hb.spec.Fixed(6))
        assert drafted.token_ids == plain.token_ids
        assert drafted.stats.accepted > 10
        assert drafted.stats.drafted > drafted.stats.accepted
        assert [p[:, 2].tolist() for p in held] == spy.positions()
        assert mass is not None

    @pytest.mark.parametrize("name", SPECULATED)
    def test_a_batch_changes_nothing(self, lm, name):
        recipe = when(RECIPES[name](16), EveryTokens(5))
        prompts = [ids(n, seed=n) for n in (1, 30, 90, 17)]
        together = lm.generate(prompts, keep=recipe, max_new_tokens=20, draft=None)
        for prompt, out in zip(prompts, together, strict=True):
            alone = lm.generate(prompt, keep=recipe, max_new_tokens=20, draft=None)
            assert out.token_ids == alone.token_ids
        assert lm.tree.stats()["branches"] == 0


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


class TestRollback:
    def test_a_failed_step_after_an_eviction_leaves_every_byte(self, model, lm, spy):
        """The step that fails is the fifth; what the keeper and the pages hold is what the fourth left."""
        prompt, recipe = ids(50, seed=6), when(RECIPES["h2o"](16), EveryTokens(3))
        runner, calls, snapshots = lm.runner, [0], []
        forward = runner.forward

        def snapshot():
            keeper = spy.keepers[-1]
            state = keeper.states[0]
            branch = self.sequence.branch
            table = lm.tree.key_table(branch)
            rows = table.gather(lm.tree.chunks)
            queries = [(p.tolist(), q.clone()) for p, q in state.queries]
            return (
                table.entries.tolist(),
                rows,
                state.mass.clone(),
                queries,
                state.since,
                state.added,
                lm.tree.stats(),
            )

        start = hb.engine.request.Request.__init__

        def remember(sequence, *arguments, **options):
            start(sequence, *arguments, **options)
            self.sequence = sequence

        def failing(tree, step, **options):
            calls[0] += 1
            if calls[0] == 6:
                forward(tree, step, **options)
                raise RuntimeError("the model failed")
            return forward(tree, step, **options)

        def closing(sequence):
            if not sequence.is_closed and calls[0] == 6:
                snapshots.append(snapshot())
            close(sequence)

        close = hb.engine.request.Request.close
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hb.engine.request.Request, "__init__", remember)
            patch.setattr(hb.engine.request.Request, "close", closing)
            patch.setattr(runner, "forward", failing)
            take_step = engine_module.take_step

            def step(engine, plan):
                taken = take_step(engine, plan)
                if calls[0] == 5:
                    snapshots.append(snapshot())
                return taken

            patch.setattr(engine_module, "take_step", step)
            with pytest.raises(RuntimeError, match="the model failed"):
                lm.generate(
                    prompt,
                    keep=recipe,
                    max_new_tokens=20,
                    draft=Foresight([prompt + ids(40)]),
                    length=hb.spec.Fixed(2),
                )
        before, after = snapshots
        assert before[0] == after[0]
        assert before[4:] == after[4:]
        assert all(torch.equal(x, y) for x, y in zip(before[1], after[1], strict=True))
        assert torch.equal(before[2], after[2])
        assert all(p == r and torch.equal(q, s) for (p, q), (r, s) in zip(before[3], after[3], strict=True))
        assert lm.tree.stats()["branches"] == 0


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


class TestRerotation:
    def test_kept_keys_lie_before_the_next_token_without_a_gap(self, model, lm):
        """As transformers over a cache whose keys were never rotated for their own positions."""
        import dataclasses

        prompt = ids(90, seed=11)
        recipe = when(hb.recipes.streaming_llm(20), AfterPrefill())
        recipe = dataclasses.replace(recipe, rerotate=True)
        keys, values, queries, token = arrays(model, prompt)
        kept = hb.keep.plan(recipe, keys, values, queries)
        frequencies = hb.keep.rotate.inverse_frequencies(model)
        ks, vs = [], []
        for layer in range(LAYERS):
            k, v = [], []
            for head in range(HEADS):
                index = kept[layer][0][head]
                by = torch.arange(20) - index
                k.append(hb.keep.rotate.turn(keys[layer, 0, head, index], by, frequencies))
                v.append(values[layer, 0, head, index])
            ks.append(torch.stack(k)[None])
            vs.append(torch.stack(v)[None])
        # Distances are all that rotary embeddings know: the cache is 20 long and the text goes on there.
        want = continued(model, ks, vs, 20, token, 10)
        out = lm.generate(prompt, keep=recipe, max_new_tokens=10, draft=None)
        assert out.token_ids == want
        repeated = dataclasses.replace(recipe, when=EveryTokens(4))
        assert len(lm.generate(prompt, keep=repeated, max_new_tokens=20, draft=None).token_ids) == 20


@pytest.mark.parametrize("name", ["knorm", "ems", "snap_kv"])
def test_torch_s_default_type_changes_nothing(lm, name):
    options = {"max_new_tokens": 6, "keep": RECIPES[name]("50%")}
    right = lm.generate(ids(40), **options).token_ids
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert lm.generate(ids(40), **options).token_ids == right
    finally:
        torch.set_default_dtype(torch.float32)
