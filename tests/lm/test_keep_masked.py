"""Recipes of probability mass on models whose layers have a window, a soft cap or sinks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import hornbeam as hb
from hornbeam.keep import AfterPrefill, EveryTokens, NormalisedMass, Recipe
from tests import models
from tests.drafts import Foresight
from tests.lm.kept import Spy, ids
from tests.reference import keep as reference

MODELS = {"mistral": models.mistral, "gemma2": models.gemma2, "gpt_oss": models.gpt_oss}
RECIPES = {
    "snap_kv": lambda budget: hb.recipes.snap_kv(budget, window=12, kernel=3),
    "h2o": lambda budget: hb.recipes.h2o(budget),
    "tova": lambda budget: hb.recipes.tova(budget),
    "ems": lambda budget: hb.recipes.ems(budget, window=12, kernel=3),
    "prefix_kv": lambda budget: hb.recipes.prefix_kv(budget),
    "window_kv": lambda budget: hb.recipes.window_kv(budget),
    "probes": lambda budget: Recipe(NormalisedMass(0.1, 0.2), budget),
}
TOKENS = 60


@pytest.fixture(scope="module", params=MODELS)
def lm(request):
    return hb.LM(MODELS[request.param](), page_tokens=4)


@pytest.fixture
def spy(monkeypatch):
    return Spy(monkeypatch)


def probabilities(model, prompt):
    """What eager attention of transformers gives: `[layers][H, N, N]`, float64."""
    with torch.inference_mode():
        found = model(torch.tensor([prompt]), output_attentions=True, use_cache=False).attentions
    return [layer[0].double().numpy() for layer in found]


def windows(model):
    kinds = getattr(model.config, "layer_types", None) or ["sliding_attention"] * 2
    return [model.config.sliding_window if kind == "sliding_attention" else None for kind in kinds]


def wanted(name, probs, heads, window, monkeypatch):
    """The reference's scores `[Hk, N]`, from these probabilities."""
    monkeypatch.setattr(reference, "probabilities", lambda *_: probs)
    keys, queries = np.zeros((heads, TOKENS, 1)), np.zeros((len(probs), TOKENS, 1))
    if name == "probes":
        rows = reference.probe_rows(TOKENS, 0.1, 0.2, 0)
        total = reference.grouped(sum(probs[:, row] for row in rows), heads)
        reach = TOKENS if window is None else window
        seen = np.array([sum(key <= row < key + reach for row in rows) for key in range(TOKENS)])
        return np.divide(total, seen, out=np.zeros_like(total), where=seen > 0)
    if name == "ems" and window is not None:
        return None  # the reference divides by all later rows
    score = {
        "snap_kv": lambda *a: reference.window_mass(*a, window=12, kernel=3),
        "h2o": reference.accumulated_mass,
        "tova": reference.last_query,
        "ems": lambda *a: reference.global_local(*a, window=12, kernel=3),
        "prefix_kv": lambda *a: reference.accumulated_mass(*a, across_heads=True),
        "window_kv": reference.window_tokens,
    }[name]
    return score(keys, keys, queries, 1.0)


@pytest.mark.parametrize("name", RECIPES)
def test_scores_are_made_of_the_probabilities_that_the_model_gives(lm, monkeypatch, name):
    found = []
    scores = hb.engine.eviction.scoring.Scoring.scores

    def spying(scoring, sequence, state, table):
        found.append(scores(scoring, sequence, state, table))
        return found[-1]

    monkeypatch.setattr(hb.engine.eviction.scoring.Scoring, "scores", spying)
    prompt = ids(TOKENS, seed=4)
    recipe = dataclasses.replace(RECIPES[name]("40%"), when=AfterPrefill())
    lm.clear_cache()
    lm.generate(prompt, keep=recipe, max_new_tokens=2, draft=None)
    heads = lm.tree.num_kv_heads
    got = found[0].view(-1, heads, TOKENS).numpy()
    for layer, probs in enumerate(probabilities(lm.model, prompt)):
        want = wanted(name, probs, heads, windows(lm.model)[layer], monkeypatch)
        if want is not None:
            assert np.abs(got[layer] - want).max() <= 1e-5, layer
            assert np.abs(want).max() > 1e-3


@pytest.mark.parametrize("name", RECIPES)
def test_speculation_and_a_batch_change_nothing(lm, name):
    recipe = dataclasses.replace(RECIPES[name](20), when=EveryTokens(7))
    prompts = [ids(n, seed=n) for n in (30, 61, 9)]
    together = lm.generate(prompts, keep=recipe, max_new_tokens=24, draft=None)
    for prompt, out in zip(prompts, together, strict=True):
        alone = lm.generate(prompt, keep=recipe, max_new_tokens=24, draft=None)
        known = Foresight([prompt + alone.token_ids])
        fixed = hb.spec.Fixed(4)
        drafted = lm.generate(prompt, keep=recipe, max_new_tokens=24, draft=known, length=fixed)
        assert out.token_ids == alone.token_ids == drafted.token_ids
    lm.tree.debug_check()
