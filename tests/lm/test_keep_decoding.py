"""LM.generate(keep=...): reductions in the course of decoding."""

from __future__ import annotations

import pytest
import torch
import transformers

import hornbeam as hb
from hornbeam.engine import engine as engine_module
from hornbeam.engine.request import Request
from hornbeam.keep import EveryTokens
from tests.drafts import Foresight
from tests.lm.kept import DIM, GROUP, HEADS, LAYERS, RECIPES, SPECULATED, arrays, ids, when


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


class TestRollback:
    def test_a_failed_step_after_an_eviction_leaves_every_byte(self, model, lm, spy):
        """The step that fails is the fifth; what the keeper and the pages hold is what the fourth left."""
        prompt, recipe = ids(50, seed=6), when(RECIPES["h2o"](16), EveryTokens(3))
        runner, calls, snapshots = lm.runner, [0], []
        forward = runner.forward

        def snapshot():
            keeper = spy.keepers[-1]
            [state] = keeper.states.values()
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

        start = Request.__init__

        def remember(sequence, *arguments, **options):
            start(sequence, *arguments, **options)
            self.sequence = sequence

        def failing(tree, step, **options):
            calls[0] += 1
            if calls[0] == 6:
                forward(tree, step, **options)
                raise RuntimeError("the model failed")
            return forward(tree, step, **options)

        def closing(sequence, keep=True):
            if not sequence.is_closed and calls[0] == 6:
                snapshots.append(snapshot())
            close(sequence, keep)

        close = Request.close
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Request, "__init__", remember)
            patch.setattr(Request, "close", closing)
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
